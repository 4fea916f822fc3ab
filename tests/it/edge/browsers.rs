//! Pages in browsers: which may call the proxy, and which names the admin listener has.

use http::{Method, StatusCode};
use serde_json::json;

use crate::attack::Target;
use crate::edge::{Scripted, ask};
use crate::harness::{ADMIN_TOKEN, House, UPSTREAM_KEY, call, run};

const PAGE: &str = "https://chat.example";

fn preflight(origin: &str) -> [(&str, &str); 3] {
    [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
    ]
}

#[test]
fn a_listed_page_may_call_and_others_may_not() {
    run(async {
        let house = House::with(&format!("[server]\ncors_origins = [{PAGE:?}]\n")).await;
        let asked = ask(&house, Method::OPTIONS, "/v1/chat/completions", &preflight(PAGE)).await;
        assert_eq!(asked.status, StatusCode::NO_CONTENT, "{asked:?}");
        assert_eq!(asked.header("access-control-allow-origin"), PAGE);
        assert_eq!(asked.header("access-control-allow-headers"), "authorization,content-type,x-stainless-os");
        assert!(asked.header("access-control-allow-methods").contains("POST"));
        assert!(asked.header("access-control-max-age").parse::<u32>().unwrap() > 0);
        assert_eq!(asked.header("vary"), "origin");
        assert_eq!(asked.header("access-control-allow-credentials"), "");
        let page = [("origin", PAGE)];
        let without_key = ask(&house, Method::GET, "/v1/models", &page).await;
        for answer in [house.chat(&page, json!({})).await, without_key] {
            assert_eq!(answer.header("access-control-allow-origin"), PAGE, "{answer:?}");
            let exposed = answer.header("access-control-expose-headers");
            assert!(
                exposed.contains("x-request-id") && exposed.contains("x-spendguard-cost-usd"),
                "{exposed}"
            );
            assert_eq!(answer.header("vary"), "origin");
        }
        let other =
            ask(&house, Method::OPTIONS, "/v1/chat/completions", &preflight("https://evil.example")).await;
        assert_eq!((other.status, other.code().as_str()), (StatusCode::FORBIDDEN, "origin_not_allowed"));
        assert_eq!(other.header("access-control-allow-origin"), "");
        let other = house.chat(&[("origin", "https://evil.example")], json!({})).await;
        assert_eq!((other.header("access-control-allow-origin"), other.header("vary")), ("", "origin"));
    });
}

#[test]
fn all_pages_or_none_may_call_as_it_is_configured() {
    run(async {
        let all = House::with("[server]\ncors_origins = [\"*\"]\n").await;
        let asked = ask(&all, Method::OPTIONS, "/v1/models", &preflight(PAGE)).await;
        assert_eq!(
            (asked.status, asked.header("access-control-allow-origin")),
            (StatusCode::NO_CONTENT, "*")
        );
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAccess-Control-Allow-Origin: *\r\n\
                      Access-Control-Expose-Headers: X-Request-ID\r\nContent-Length: 2\r\n\r\n{}";
        let upstream = Scripted::says(answer).await;
        let none = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
        let bearer = format!("Bearer {}", none.key);
        let headers = [("authorization", bearer.as_str()), ("origin", PAGE)];
        let answer = ask(&none, Method::GET, "/v1/models", &headers).await;
        assert_eq!(answer.status, StatusCode::OK);
        let names = answer.headers.keys().filter(|name| name.as_str().starts_with("access-control-"));
        assert_eq!(names.count(), 0, "upstream's own don't open the guard: {answer:?}");
        let asked = ask(&none, Method::OPTIONS, "/v1/models", &preflight(PAGE)).await;
        assert_eq!(
            (asked.code().as_str(), asked.header("access-control-allow-origin")),
            ("origin_not_allowed", "")
        );
    });
}

#[test]
fn the_admin_listener_answers_to_its_own_names_alone() {
    run(async {
        let config =
            "[admin]\nhosts = [\"guard.example\"]\n[alerts]\nlink = \"https://spend.acme.example/\"\n";
        let house = House::with(config).await;
        let address = house.admin_address;
        let target = Target { address, key: ADMIN_TOKEN.to_owned() };
        let get = async |host: &str, path: &str| {
            let request = target.request(&format!("GET {path}"), "Connection: close\r\n", "");
            target.raw(request.replace("Host: x", &format!("Host: {host}"))).await
        };
        let port = address.port();
        for path in ["/metrics", "/livez", "/guard/v1/keys", "/", "/openapi.json"] {
            for host in [
                &format!("127.0.0.1:{port}"),
                "localhost",
                &format!("[::1]:{port}"),
                "guard.example",
                "SPEND.acme.example:8443",
            ] {
                let answer = get(host, path).await;
                assert!(!answer.starts_with("HTTP/1.1 421"), "{host} {path}: {answer}");
            }
            for host in
                ["evil.example", &format!("evil.example:{port}"), "127.0.0.1.evil.example", "192.0.2.1"]
            {
                let answer = get(host, path).await;
                assert!(answer.starts_with("HTTP/1.1 421"), "{host} {path}: {answer}");
                assert!(answer.contains("admin.hosts"), "{answer}");
            }
        }
        let whole = target.request("GET http://evil.example/metrics", "Connection: close\r\n", "");
        let answer = target.raw(whole.replace("Host: x", "Host: localhost")).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
        let old = target.raw("GET /livez HTTP/1.0\r\n\r\n").await;
        assert!(old.contains(" 200 "), "a health check may name no host: {old}");
        let answer = call(&house.admin, Method::GET, "/livez", &[], bytes::Bytes::new()).await;
        assert_eq!(answer.status, StatusCode::OK);
    });
}
