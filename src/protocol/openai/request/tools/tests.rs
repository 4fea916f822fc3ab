//! Which tools have a price, and that none gets in without one.

use serde_json::{Value, json};

use super::*;
use crate::domain::demand::ImageQuality;
use crate::protocol::openai::request::InvalidKind;
use crate::protocol::openai::request::tests::{chat, responses};

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
        containers: vec![made(4), made(1), existing(), made(16), existing()],
        context_container: None,
        image: Some(ImageDemand { model: Some("gpt-image-2".to_owned()), ..ImageDemand::default() }),
        mcp_servers: 1,
        loops: true,
        calls_max: Some(3),
    };
    assert_eq!(all.unwrap(), expected);
    let preview =
        offered(json!([{"type": "web_search_preview_2025_03_11"}, {"type": "web_search"}])).unwrap();
    assert_eq!((preview.web_search, preview.loops), (Some(WebSearch::Preview), true));
}

fn made(gibibytes: u8) -> ContainerDemand {
    ContainerDemand::Made(match gibibytes {
        1 => ContainerMemory::G1,
        4 => ContainerMemory::G4,
        _ => ContainerMemory::G16,
    })
}

fn existing() -> ContainerDemand {
    ContainerDemand::Existing("cntr_1".to_owned())
}

#[test]
fn what_an_image_may_cost_is_read_from_its_tool() {
    let image = |tool: Value| responses(json!({"tools": [tool]})).unwrap().tools.image.unwrap();
    let tool = image(
        json!({"type": "image_generation", "quality": "low", "size": "1024x1536", "partial_images": 3}),
    );
    let expected = ImageDemand {
        model: None,
        quality: ImageQuality::Low,
        pixels: Some(1_024 * 1_536),
        partial_images: 3,
        extra_frames: 0,
    };
    assert_eq!(tool, expected);
    let open = image(json!({"type": "image_generation", "quality": "auto", "size": "auto"}));
    assert_eq!(open, ImageDemand::default());
    assert_eq!(image(json!({"type": "image_generation", "quality": "ultra"})).quality, ImageQuality::Other);
}

#[test]
fn a_namespace_hides_no_tools() {
    let inside =
        |tool: Value| responses(json!({"tools": [{"type": "namespace", "name": "n", "tools": [tool]}]}));
    assert_eq!(inside(json!({"type": "function", "name": "f"})).unwrap().tools, ToolDemand::default());
    let searched = inside(json!({"type": "web_search"})).unwrap().tools;
    assert_eq!((searched.web_search, searched.loops), (Some(WebSearch::Current), true));
    assert_eq!(inside(json!({"type": "teleport"})).unwrap_err().kind, InvalidKind::NotAllowed);
    let deep = json!({"type": "namespace", "tools": [{"type": "shell", "environment": {"type": "container_auto", "memory_limit": "64g"}}]});
    assert_eq!(inside(deep).unwrap().tools.containers, [ContainerDemand::Made(ContainerMemory::G64)]);
}

#[test]
fn tools_without_a_price_are_not_allowed() {
    for tool in [
        json!({"type": "teleport"}),
        json!({}),
        json!({"type": "image_generation", "svg": {}}),
        json!({"type": "code_interpreter", "container": {"memory_limit": "128g"}}),
        json!({"type": "shell", "environment": {"container_id": 5}}),
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
    let demand = responses(json!({"input": [item], "store": false})).unwrap();
    assert_eq!(demand.tools.web_search, Some(WebSearch::Current));
    let listed = json!({"type": "mcp_list_tools", "id": "m", "server_label": "s", "tools": [{"name": "f"}]});
    assert_eq!(responses(json!({"input": [listed]})).unwrap().tools, ToolDemand::default());
    let item = json!({"type": "tool_search_output", "tools": [{"type": "teleport"}]});
    assert_eq!(responses(json!({"input": [item]})).unwrap_err().kind, InvalidKind::NotAllowed);
}
