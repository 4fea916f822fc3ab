//! Lists of the admin API: pages and cursors that don't exist.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{House, run};

const LISTS: [&str; 13] = [
    "/guard/v1/keys",
    "/guard/v1/ledger",
    "/guard/v1/alerts",
    "/guard/v1/usage",
    "/v1/organization/projects",
    "/v1/organization/projects/default/api_keys",
    "/v1/organization/projects/default/service_accounts",
    "/v1/organization/projects/default/rate_limits",
    "/v1/organization/admin_api_keys",
    "/v1/organization/spend_alerts",
    "/v1/organization/audit_logs",
    "/v1/organization/usage/completions?start_time=1795000000",
    "/v1/organization/costs?start_time=1795000000",
];

/// The most rows that any list shows at once.
const ROWS_MAX: usize = 1_000;

#[test]
fn huge_pages_and_cursors_are_refused_in_words_or_empty() {
    run(async {
        let house = House::with("").await;
        assert_eq!(house.chat(&[], json!({})).await.status, 200);
        let long = "x".repeat(10_000);
        let mut queries: Vec<String> = [
            "limit=0",
            "limit=-1",
            "limit=1000000000",
            "limit=18446744073709551616",
            "limit=1e3",
            "limit=",
            "after=",
            "after=%00",
            "after=..%2f..%2fetc",
            "after=ent_18446744073709551615",
            "after=alert_18446744073709551615",
            "after=alert_99999999999999999999",
            "after=-1",
            "before=nobody",
            "order=sideways",
            "page=page_99999999999999999999",
            "page=page_-9223372036854775808",
            "page=",
            "start_time=9223372036854775807",
            "start_time=-1",
            "end_time=1",
            "since=9223372036854775807",
            "until=-9223372036854775808",
        ]
        .map(str::to_owned)
        .to_vec();
        queries.extend([
            format!("after={long}"),
            format!("page={long}"),
            format!("limit={}", "9".repeat(5_000)),
        ]);
        for path in LISTS {
            for query in &queries {
                let joint = if path.contains('?') { '&' } else { '?' };
                let answer = house.admin(Method::GET, &format!("{path}{joint}{query}"), None).await;
                let asked = format!("{path} {}", &query[..query.len().min(60)]);
                let body = answer.json();
                match answer.status.as_u16() {
                    200 => assert!(rows(&body) <= ROWS_MAX, "{asked}"),
                    400 => {
                        let message = body["error"]["message"].as_str().unwrap_or("");
                        assert!(!message.is_empty() && message.len() < 11_000, "{asked}: {body}");
                    }
                    other => panic!("{asked}: {other} {body}"),
                }
            }
        }
    });
}

fn rows(body: &Value) -> usize {
    body["data"].as_array().map_or(0, Vec::len)
}
