//! The configuration of the edge: which origins may call, and how upstream is
//! reached.

use std::collections::HashMap;
use std::net::IpAddr;

use http::{HeaderName, HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use crate::config::Settings;
use crate::config::problems::base_url;
use crate::proxy::cors::Origins;
use crate::proxy::headers::{Forwarded, is_reserved};
use crate::upstream::HttpProxy;

/// `server.cors_origins`.
pub(super) fn origins(listed: &[String]) -> Result<Origins, String> {
    if listed.is_empty() {
        return Ok(Origins::None);
    }
    if listed.iter().any(|origin| origin == "*") {
        return if listed.len() == 1 {
            Ok(Origins::Any)
        } else {
            Err("\"*\" stands for all origins and must be the only entry".to_owned())
        };
    }
    let origin = |text: &String| {
        let wrong = || format!("{text:?} is no origin; write it as \"https://chat.example\", without a path");
        let url: Uri = text.parse().map_err(|_| wrong())?;
        let (scheme, authority) = url.scheme_str().zip(url.authority()).ok_or_else(wrong)?;
        // As browsers write it, since the `Origin` header is compared with it.
        let plain = format!("{scheme}://{}", authority.as_str().to_ascii_lowercase());
        let is_origin = *text == plain && !authority.as_str().contains('@');
        is_origin.then(|| HeaderValue::from_str(text).ok()).flatten().ok_or_else(wrong)
    };
    listed.iter().map(origin).collect::<Result<_, _>>().map(Origins::Listed)
}

/// `admin.hosts`.
pub(super) fn hosts(listed: &[String]) -> Result<Vec<String>, String> {
    let host = |text: &String| {
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        if let Ok(address) = address {
            return Ok(address.to_string());
        }
        if text == "*" || is_name(text) {
            return Ok(text.to_ascii_lowercase());
        }
        Err(format!("{text:?} is no host; write it as \"guard.example\", without a scheme, port or path"))
    };
    listed.iter().map(host).collect()
}

/// `upstream.base_url`.
pub(super) fn upstream_url(text: &str) -> Result<Uri, String> {
    if text.contains('#') {
        return Err("a base URL has no fragment; leave out # and what follows".to_owned());
    }
    let url = base_url(&without_user(text))?;
    if without_user(text) != text {
        let problem = "a base URL has no user and password, which OpenAI's API doesn't take; the key that pays is \
                       upstream.api_key";
        return Err(problem.to_owned());
    }
    Ok(url)
}

/// A URL without the user and password before its host, for messages.
fn without_user(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..].find(['/', '?', '#']).map_or(text.len(), |at| start + at);
    match text[start..end].rfind('@') {
        Some(at) => format!("{}{}", &text[..start], &text[start + at + 1..]),
        None => text.to_owned(),
    }
}

/// The proxy for an address that is not upstream's: the configured one, else the
/// environment's for that address.
pub fn way_to(
    to: &Uri,
    settings: &Settings,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Option<HttpProxy>, String> {
    match &settings.upstream.proxy {
        Some(configured) => Ok(Some(configured.clone())),
        None => proxy(None, to, &environment.into_iter().collect()),
    }
}

/// `upstream.proxy`, else the environment's proxy for such an address.
pub(super) fn proxy(
    configured: Option<&str>,
    to: &Uri,
    environment: &HashMap<String, String>,
) -> Result<Option<HttpProxy>, String> {
    let named = |upper: &str| {
        let names = [upper.to_owned(), upper.to_ascii_lowercase()];
        names.iter().find_map(|name| environment.get(name)).cloned().unwrap_or_default()
    };
    let matcher = match configured {
        Some("") => return Ok(None),
        Some(url) => {
            let wrong =
                || format!("{:?} is no proxy; write it as \"http://proxy.example:3128\"", without_user(url));
            let plain: Uri = without_user(url).parse().map_err(|_| wrong())?;
            let is_proxy = matches!(plain.scheme_str(), Some("http" | "https"))
                && plain.host().is_some_and(|host| !host.is_empty())
                && matches!(plain.path(), "" | "/")
                && plain.query().is_none();
            if !is_proxy {
                return Err(wrong());
            }
            Matcher::builder().all(url.to_owned()).build()
        }
        // A proxy to other networks is not used for a server on this machine.
        None if is_loopback(to) => return Ok(None),
        None => Matcher::builder()
            .all(named("ALL_PROXY"))
            .http(named("HTTP_PROXY"))
            .https(named("HTTPS_PROXY"))
            .no(named("NO_PROXY"))
            .build(),
    };
    let Some(found) = matcher.intercept(to) else {
        let unread =
            configured.map(|_| "this proxy's user or password can't be read; percent-encode it".to_owned());
        return unread.map_or(Ok(None), Err);
    };
    if !matches!(found.uri().scheme_str(), Some("http" | "https")) {
        return Err("the environment names a proxy that is neither http:// nor https://; set upstream.proxy"
            .to_owned());
    }
    let mut authorization = found.basic_auth().cloned();
    if let Some(value) = &mut authorization {
        value.set_sensitive(true);
    }
    Ok(Some(HttpProxy { url: found.uri().clone(), authorization }))
}

fn is_loopback(to: &Uri) -> bool {
    let host = to.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `upstream.forward_headers`.
pub(super) fn forwarded(listed: &[String]) -> Result<Vec<Forwarded>, String> {
    let header = |text: &String| {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text.as_str(), false), |name| (name, true));
        let wrong = || format!("{text:?} is no header's name; write it as \"x-title\" or \"helicone-*\"");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        if is_reserved(name.as_str()) {
            return Err(format!(
                "{text:?} can't be forwarded: it is about one connection, or the guard writes it"
            ));
        }
        Ok(Forwarded { name: name.as_str().into(), is_prefix })
    };
    listed.iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(configured: Option<&str>, to: &str, environment: &[(&str, &str)]) -> Result<String, String> {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let found = proxy(configured, &to.parse().unwrap(), &environment)?;
        let shown = |proxy: HttpProxy| {
            let user = proxy.authorization.map(|value| format!(" {}", value.to_str().unwrap()));
            format!("{}{}", proxy.url, user.unwrap_or_default())
        };
        Ok(found.map_or("none".to_owned(), shown))
    }

    #[test]
    fn the_way_to_upstream_is_configured_or_the_environments() {
        let (openai, plain) = ("https://api.openai.com/v1", "http://llm.acme.example/v1");
        let both = [
            ("HTTPS_PROXY", "http://a:b%40@secure:1"),
            ("http_proxy", "http://plain:2"),
            ("NO_PROXY", ".acme.example"),
        ];
        let basic = "Basic YTpiQA==";
        assert_eq!(way(None, openai, &both).unwrap(), format!("http://secure:1/ {basic}"));
        assert_eq!(way(None, plain, &both).unwrap(), "none");
        assert_eq!(way(None, plain, &both[..2]).unwrap(), "http://plain:2/");
        assert_eq!(way(Some("http://own:3128"), plain, &both).unwrap(), "http://own:3128/");
        assert_eq!(
            way(Some("https://a:b%40@own:3128"), openai, &[]).unwrap(),
            format!("https://own:3128/ {basic}")
        );
        assert_eq!(way(Some(""), openai, &both).unwrap(), "none");
        assert_eq!(way(None, "http://127.0.0.1:1", &both[1..2]).unwrap(), "none");
        for wrong in ["proxy:3128", "socks5://p:1", "http://p:1/path", "http://"] {
            assert!(way(Some(wrong), openai, &[]).is_err(), "{wrong}");
        }
        let refused = way(Some("ftp://user:hunter2@p:1"), openai, &[]).unwrap_err();
        assert!(!refused.contains("hunter2"), "{refused}");
    }

    #[test]
    fn a_base_url_has_no_secret_and_no_fragment() {
        assert!(upstream_url("https://api.openai.com/v1").is_ok());
        for wrong in
            ["https://user:hunter2@api.openai.com/v1", "https://hunter2@api.openai.com", "ftp://u:hunter2@x"]
        {
            let refused = upstream_url(wrong).unwrap_err();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
        assert!(upstream_url("https://api.openai.com/v1#x").unwrap_err().contains("fragment"));
        assert!(upstream_url("https://api.openai.com/v1/@x").is_ok());
    }

    #[test]
    fn origins_hosts_and_headers_are_written_as_they_are_compared() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        assert_eq!(origins(&list(&["*"])), Ok(Origins::Any));
        assert!(origins(&list(&["https://chat.example:8443", "http://localhost:3000"])).is_ok());
        for wrong in ["chat.example", "https://chat.example/", "https://Chat.example", "https://a@b", "null "]
        {
            assert!(origins(&list(&[wrong])).is_err(), "{wrong}");
        }
        assert!(origins(&list(&["*", "https://a.example"])).is_err());
        assert_eq!(
            hosts(&list(&["Guard.Example", "[::1]", "10.0.0.1"])),
            Ok(list(&["guard.example", "::1", "10.0.0.1"]))
        );
        for wrong in ["https://guard.example", "guard.example:8081", "", "a/b"] {
            assert!(hosts(&list(&[wrong])).is_err(), "{wrong}");
        }
        assert!(forwarded(&list(&["X-Title", "helicone-*"])).is_ok());
        for wrong in ["*", "x y", "Authorization", "host", "transfer-encoding", "x-spendguard-*"] {
            assert!(forwarded(&list(&[wrong])).is_err(), "{wrong}");
        }
    }
}
