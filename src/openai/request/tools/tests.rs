//! Which tools have a price, and that none gets in without one.

use serde_json::{Value, json};

use super::*;
use crate::openai::request::InvalidKind;
use crate::openai::request::tests::{chat, responses};

#[test]
fn hosted_tools_are_priced_by_kind() {
    let offered =
        |tools: Value| responses(json!({"tools": tools, "max_tool_calls": 3})).map(|demand| demand.tools);
    let none = ToolDemand { calls_max: Some(3), ..ToolDemand::default() };
    let free = ["function", "custom", "computer_use_preview", "local_shell", "apply_patch"];
    let free: Vec<_> = free.iter().map(|kind| json!({"type": kind})).collect();
    assert_eq!(offered(json!(free)).unwrap(), none);

    let all = offered(json!([
        {"type": "web_search"}, {"type": "file_search", "vector_store_ids": ["vs_1"]}, {"type": "mcp"},
        {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "code_interpreter", "container": "cntr_1"},
        {"type": "shell", "environment": {"type": "container_auto", "memory_limit": "16g"}},
        {"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}},
        {"type": "shell", "environment": {"type": "local"}},
        {"type": "image_generation", "model": "gpt-image-2"},
    ]));
    let expected = ToolDemand {
        web_search: Some(WebSearch::Current),
        file_search: true,
        containers: [4, 1, 64, 16, 64].map(memory).to_vec(),
        image: Some(ImageTool { model: Some("gpt-image-2".to_owned()) }),
        loops: true,
        calls_max: Some(3),
    };
    assert_eq!(all.unwrap(), expected);
    let preview =
        offered(json!([{"type": "web_search_preview_2025_03_11"}, {"type": "web_search"}])).unwrap();
    assert_eq!((preview.web_search, preview.loops), (Some(WebSearch::Preview), true));
}

fn memory(gibibytes: u8) -> ContainerMemory {
    match gibibytes {
        1 => ContainerMemory::G1,
        4 => ContainerMemory::G4,
        16 => ContainerMemory::G16,
        _ => ContainerMemory::G64,
    }
}

#[test]
fn tools_without_a_price_are_not_allowed() {
    for tool in [
        json!({"type": "teleport"}),
        json!({}),
        json!({"type": "image_generation", "svg": {}}),
        json!({"type": "code_interpreter", "container": {"memory_limit": "128g"}}),
    ] {
        let invalid = responses(json!({"tools": [{"type": "function"}, tool]})).unwrap_err();
        assert_eq!((invalid.kind, invalid.param), (InvalidKind::NotAllowed, Some("tools")), "{invalid}");
    }
    assert_eq!(chat(json!({"tools": [{"type": "web_search"}]})).unwrap_err().kind, InvalidKind::NotAllowed);
    assert!(chat(json!({"tools": [{"type": "function", "function": {"name": "f"}}]})).is_ok());
}

#[test]
fn items_can_not_smuggle_tools_in() {
    let item = json!({"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}]});
    let demand = responses(json!({"input": [item]})).unwrap();
    assert_eq!(demand.tools.web_search, Some(WebSearch::Current));
    let listed = json!({"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": [{"name": "f"}]});
    assert_eq!(responses(json!({"input": [listed]})).unwrap().tools, ToolDemand::default());
    let item = json!({"type": "tool_search_output", "tools": [{"type": "teleport"}]});
    assert_eq!(responses(json!({"input": [item]})).unwrap_err().kind, InvalidKind::NotAllowed);
}
