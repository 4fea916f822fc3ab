//! The results that hosted tools add to the context, as far as a stream shows them.
//!
//! OpenAI shows what MCP servers and shells answered, what files were found, and the
//! logs of code where the client asked to include them. It shows neither the pages that
//! a web search read nor the tokens of a picture.

use serde::Deserialize;

use crate::protocol::openai::json::{Loose, Object, Raw};

/// The addition of a completed output item to the context of later turns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Brought {
    /// A call of a hosted tool, with what it added; `None` if that is not shown.
    ByCall(Option<String>),
    /// What an earlier call added.
    ByOutput(String),
    /// The tools that an MCP server lists.
    ByList(String),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DoneEvent<'a> {
    #[serde(borrow)]
    item: Loose<DoneItem<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DoneItem<'a> {
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    action: Raw<'a>,
    #[serde(borrow)]
    arguments: Raw<'a>,
    #[serde(borrow)]
    error: Raw<'a>,
    #[serde(borrow)]
    code: Raw<'a>,
    #[serde(borrow)]
    tools: Raw<'a>,
    #[serde(borrow)]
    outputs: Raw<'a>,
    #[serde(borrow)]
    output: Raw<'a>,
    #[serde(borrow)]
    results: Raw<'a>,
}

/// One part of a tool's result; each has one or two of these.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Part<'a> {
    #[serde(borrow)]
    logs: Raw<'a>,
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    stdout: Raw<'a>,
    #[serde(borrow)]
    stderr: Raw<'a>,
}

impl Brought {
    /// The bytes of what is shown.
    pub fn bytes(&self) -> usize {
        match self {
            Self::ByCall(shown) => shown.as_deref().map_or(0, str::len),
            Self::ByOutput(text) | Self::ByList(text) => text.len(),
        }
    }

    /// The addition that the event of a completed item shows; `None` if it is not of a hosted tool.
    pub(super) fn of(data: &[u8]) -> Option<Self> {
        let Object(DoneEvent { item: Loose(item) }) = serde_json::from_slice(data).ok()?;
        let text = |raw: Raw<'_>| raw.string().unwrap_or_default().into_owned();
        Some(match &*item.kind.string()? {
            "mcp_call" => {
                Self::ByCall(Some([text(item.arguments), text(item.output), text(item.error)].concat()))
            }
            "mcp_list_tools" => Self::ByList(item.tools.value().unwrap_or_default().to_owned()),
            "code_interpreter_call" => {
                Self::ByCall(item.outputs.value().map(|outputs| text(item.code) + &parts(outputs)))
            }
            "file_search_call" => Self::ByCall(item.results.value().map(parts)),
            "shell_call" => Self::ByCall(Some(item.action.value().unwrap_or_default().to_owned())),
            "shell_call_output" => Self::ByOutput(item.output.value().map(parts).unwrap_or_default()),
            "web_search_call" | "image_generation_call" | "tool_search_call" => Self::ByCall(None),
            _ => return None,
        })
    }
}

/// The texts in a list of parts; any other value counts as it is written.
fn parts(written: &str) -> String {
    let Ok(parts) = serde_json::from_str::<Vec<Loose<Part<'_>>>>(written) else { return written.to_owned() };
    let texts = parts.into_iter().flat_map(|Loose(part)| [part.logs, part.text, part.stdout, part.stderr]);
    texts.filter_map(Raw::string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn brought(item: &Value) -> Option<Brought> {
        Brought::of(json!({ "type": "response.output_item.done", "item": item }).to_string().as_bytes())
    }

    #[test]
    fn what_a_stream_shows_of_each_tool_is_its_text() {
        let some = |text: &str| Some(Brought::ByCall(Some(text.to_owned())));
        let logs = json!([{ "type": "logs", "logs": "a\n" }, { "type": "image", "url": "data:x" }]);
        let shell = json!([{ "stdout": "out", "stderr": "err" }]);
        for (item, expected) in [
            (json!({ "type": "mcp_call", "arguments": "{}", "output": "ok" }), some("{}ok")),
            (json!({ "type": "mcp_call", "arguments": "{}", "output": null, "error": "no" }), some("{}no")),
            (json!({ "type": "code_interpreter_call", "code": "f()", "outputs": logs }), some("f()a\n")),
            (
                json!({ "type": "code_interpreter_call", "code": "f()", "outputs": null }),
                Some(Brought::ByCall(None)),
            ),
            (
                json!({ "type": "file_search_call", "results": [{ "text": "page", "score": 1 }] }),
                some("page"),
            ),
            (json!({ "type": "file_search_call", "results": null }), Some(Brought::ByCall(None))),
            (json!({ "type": "file_search_call", "results": "odd" }), some("\"odd\"")),
            (
                json!({ "type": "web_search_call", "action": { "type": "search" } }),
                Some(Brought::ByCall(None)),
            ),
            (
                json!({ "type": "shell_call_output", "output": shell }),
                Some(Brought::ByOutput("outerr".to_owned())),
            ),
            (json!({ "type": "mcp_list_tools", "tools": [1] }), Some(Brought::ByList("[1]".to_owned()))),
            (json!({ "type": "function_call", "arguments": "{}" }), None),
            (json!({ "type": "message" }), None),
            (json!("odd"), None),
        ] {
            assert_eq!(brought(&item), expected, "{item}");
        }
    }
}
