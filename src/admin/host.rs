//! Which names the admin listener answers to.
//!
//! A foreign page in an operator's browser can make its own name resolve to this
//! machine (DNS rebinding): the browser then takes the listener for the page's own
//! server. The foreign name is in `Host`, so requests for names that are not the
//! listener's are refused.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::admin::Admin;
use crate::admin::error::ApiError;

/// Answers 421 to a request for a name that is not the listener's.
pub(super) async fn known(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let is_ours = {
        let in_force = admin.in_force.load();
        let is_known = |host: &str| is_known(host, admin.address, &in_force.hosts);
        hosts(request.uri(), request.headers()).all(is_known)
    };
    if is_ours { next.run(request).await } else { ApiError::misdirected().into_response() }
}

/// The host that a request names. In HTTP/2 it is in the URI; in HTTP/1.0 it may be
/// missing, but no browser omits it.
fn hosts<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> impl Iterator<Item = &'a str> {
    let named = headers.get_all(header::HOST).iter();
    uri.authority().map(axum::http::uri::Authority::as_str).into_iter().chain(
        // A value that isn't text is none of the listener's names.
        named.map(|value| value.to_str().unwrap_or("?")),
    )
}

/// Whether a host with or without a port is an address of the listener, `localhost`,
/// or configured. If it listens on all addresses, any address is accepted: rebinding
/// needs a name, and only the network knows which addresses lead here.
fn is_known(host: &str, listens: IpAddr, configured: &[String]) -> bool {
    let host = without_port(host).trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let is_address = address.is_some_and(|address| {
        listens.is_unspecified() || address == listens || (address.is_loopback() && listens.is_loopback())
    });
    let is_listed = |name: &String| {
        name == "*" || *name == host || address.is_some_and(|address| name.parse() == Ok(address))
    };
    is_address || host == "localhost" || configured.iter().any(is_listed)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_names_are_known() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let configured = ["guard.example".to_owned(), "10.1.2.3".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:8081",
            "localhost:8081",
            "LOCALHOST",
            "localhost.",
            "[::1]:8081",
            "[::1]",
            "guard.example:443",
            "Guard.Example",
            "10.1.2.3:8081",
        ] {
            assert!(is_known(host, loopback, &configured), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8081",
            "guard.example.evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "192.0.2.1:8081",
            "user@localhost",
            "",
            "?",
        ] {
            assert!(!is_known(host, loopback, &configured), "{host}");
        }
        let all: IpAddr = "0.0.0.0".parse().unwrap();
        assert!(is_known("192.0.2.1:8081", all, &[]) && is_known("[2001:db8::1]:8081", all, &[]));
        assert!(!is_known("guard:8081", all, &[]) && is_known("guard:8081", all, &["*".to_owned()]));
    }
}
