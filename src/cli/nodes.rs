//! `spendguard nodes …`.

use serde_json::Value;

use crate::cli::args::NodesCommand;
use crate::cli::table::{self, text, time};
use crate::cli::{Connection, Failure, Format, say};

pub(super) async fn run(
    command: NodesCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    let NodesCommand::List = command;
    let answer = connection.get("/guard/v1/nodes").await?;
    let nodes = answer["data"].as_array().map_or(&[][..], Vec::as_slice);
    if format == Format::Table && nodes.is_empty() {
        say("this guard has a database of its own (storage.path)");
        return Ok(());
    }
    if table::programs(format, &answer) {
        return Ok(());
    }
    let row = |node: &Value| {
        let [since, seen] = ["since", "seen_at"].map(|field| time(node, field));
        let [name, version, state, holds] =
            ["name", "version", "state", "holds"].map(|field| text(node, field));
        vec![name, state, version, since, seen, holds]
    };
    let columns = [
        ("NAME", false),
        ("STATE", false),
        ("VERSION", false),
        ("SINCE", false),
        ("LAST SEEN", false),
        ("OPEN", true),
    ];
    table::print(format, &columns, &nodes.iter().map(row).collect::<Vec<_>>())
}
