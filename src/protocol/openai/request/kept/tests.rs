//! Sizes of kept items, and refused items.

use super::*;
use crate::protocol::openai::RESPONSES;
use crate::protocol::openai::request::InvalidKind;

fn kept(items: &str) -> Result<KeptContext, Invalid> {
    kept_items(format!("{{\"items\":[{items}]}}").as_bytes())
}

#[test]
fn only_text_is_known_by_its_bytes() {
    let part = |part: &str| kept(&format!(r#"{{"role":"user","content":[{part}]}}"#)).unwrap();
    let text = part(r#"{"type":"input_text","text":"hello"}"#);
    assert_eq!((text.tokens, text.pictures), (Some(76), Some(0)));
    for (other, pictures) in [
        (r#"{"type":"input_image","image_url":"https://example.com/a.png"}"#, Some(1)),
        (r#"{"type":"input_image","image_url":"https://example.com/a.png","detail":"low"}"#, Some(1)),
        (r#"{"type":"input_image","image_url":"data:image/png;base64,iVBORw0KGgo="}"#, Some(1)),
        (r#"{"type":"input_image","file_id":"file-1"}"#, None),
        (r#"{"type":"input_file","file_id":"file-1"}"#, None),
        (r#"{"type":"input_file","file_url":"https://example.com/a.pdf"}"#, None),
        (r#"{"type":"input_file","file_data":"data:application/pdf;base64,JVBERi0="}"#, Some(0)),
        (r#"{"type":"input_audio","input_audio":{"data":"UklGRg==","format":"wav"}}"#, None),
        (r#"{"type":"hologram"}"#, None),
    ] {
        let known = part(other);
        assert_eq!((known.tokens, known.pictures), (None, pictures), "{other}");
    }
    for item in [
        r#"{"type":"item_reference","id":"msg_1"}"#,
        r#"{"id":"msg_1"}"#,
        r#"{"type":"reasoning","id":"rs_1","summary":[]}"#,
        r#"{"type":"image_generation_call","id":"ig_1"}"#,
        r#"{"type":"file_search_call","id":"fs_1"}"#,
    ] {
        let known = kept(item).unwrap();
        assert_eq!((known.tokens, known.pictures), (None, None), "{item}");
    }
    for body in ["{}", r#"{"items":null}"#, r#"{"items":[],"metadata":{"a":"b"}}"#] {
        let known = kept_items(body.as_bytes()).unwrap();
        assert_eq!(
            (known.tokens, known.pictures),
            (Some(u64::try_from(body.len()).unwrap()), Some(0)),
            "{body}"
        );
    }
}

#[test]
fn hosted_tools_are_kept_nowhere() {
    let item = |kind: &str, tool: &str| format!(r#"{{"type":"{kind}","role":"developer","tools":[{tool}]}}"#);
    for kind in ["additional_tools", "tool_search_output"] {
        for tool in [
            r#"{"type":"web_search"}"#,
            r#"{"type":"shell","environment":{"type":"container_auto","memory_limit":"64g"}}"#,
            r#"{"type":"image_generation","model":"gpt-image-1.5"}"#,
            r#"{"type":"mcp","server_url":"https://example.com"}"#,
            r#"{"type":"time_travel"}"#,
            r#"{"type":"namespace","tools":[{"type":"file_search","vector_store_ids":[]}]}"#,
        ] {
            let item = item(kind, tool);
            let refused = kept(&item).unwrap_err();
            assert_eq!(refused.kind, InvalidKind::NotAllowed, "{item}");
            assert!(refused.message.ends_with("Send tools with the request that uses them."), "{refused}");
            let response = |more: &str| {
                RESPONSES.read(format!(r#"{{"model":"gpt-5","input":[{item}]{more}}}"#).as_bytes())
            };
            for kept in ["", r#","store":true"#, r#","store":false,"conversation":"conv_1""#] {
                assert!(response(kept).is_err(), "{item} {kept}");
            }
            if !tool.contains("time_travel") {
                assert!(response(r#","store":false"#).is_ok(), "it is not kept: {item}");
            }
        }
        let function = item(kind, r#"{"type":"function","name":"f"}"#);
        assert!(kept(&function).unwrap().tokens.is_some(), "it costs its text");
    }
    assert!(kept_items(br#"{"items":[],"items":[]}"#).is_err(), "it could be read in two ways");
}

#[test]
fn what_decides_how_context_is_read_is_in_the_rendering() {
    let rendering = |more: &str| {
        let body = format!(r#"{{"model":"gpt-5","input":"hi"{more}}}"#);
        RESPONSES.read(body.as_bytes()).unwrap().demand.rendering
    };
    assert_eq!(rendering(""), "");
    assert_eq!(rendering(r#","reasoning":{"effort":"low"}"#), "");
    assert_eq!(rendering(r#","reasoning":{"context":"all_turns"}"#), r#"reasoning="all_turns""#);
    let long = |end: char| {
        format!(
            r#","reasoning":{{"context":"x"}},"image":{{"context_compression":"{}{end}"}}"#,
            "a".repeat(5_000)
        )
    };
    assert_ne!(rendering(&long('a')), rendering(&long('b')));
    assert!(rendering(&long('a')).len() < 100);
}
