//! `spendguard usage …`.

use serde_json::Value;

use crate::cli::api::segment;
use crate::cli::args::UsageArgs;
use crate::cli::table::{self, money, text};
use crate::cli::{Connection, Failure};

pub(super) async fn run(args: UsageArgs, connection: &Connection) -> Result<(), Failure> {
    let mut path = format!("/guard/v1/usage?group_by={}", args.by);
    for (name, value) in [("since", &args.since), ("until", &args.until)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", segment(value)));
        }
    }
    let answer = connection.get(&path).await?;
    if table::programs(args.format, &answer["data"]) {
        return Ok(());
    }
    let columns = [
        ("GROUP", false),
        ("REQUESTS", true),
        ("INPUT TOKENS", true),
        ("CACHED", true),
        ("OUTPUT TOKENS", true),
        ("REASONING", true),
        ("COST USD", true),
    ];
    let row = |group: &Value| {
        let names: Vec<String> = group["group"]
            .as_object()
            .into_iter()
            .flat_map(|names| names.keys())
            .map(|name| text(&group["group"], name))
            .collect();
        let tokens = ["input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"];
        let tokens = tokens.map(|class| text(&group["usage"], class));
        let [input, cached, output, reasoning] = tokens;
        vec![
            names.join(" "),
            text(group, "requests"),
            input,
            cached,
            output,
            reasoning,
            money(group, "cost_usd"),
        ]
    };
    let rows: Vec<_> = answer["data"].as_array().into_iter().flatten().map(row).collect();
    table::print(args.format, &columns, &rows)
}
