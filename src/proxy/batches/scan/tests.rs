//! What is kept of the lines of a file.

use serde_json::{Value, json};

use super::*;
use crate::pricing::bound::ToolsBound;
use crate::pricing::plan::Policy;
use crate::pricing::sheet::{Sheet, UnknownModel};

const NOW_S: i64 = 1_795_000_000;

fn scanned(lines: &[(&str, Value)]) -> BatchFile {
    let policy = Policy {
        output_default: 0,
        tool_calls_max: 8,
        tool_context_max: 16_000,
        tools_bound: ToolsBound::Practical,
        project_tier: Tier::Standard,
    };
    let sheet = Arc::new(Sheet::built_in(&[]).unwrap());
    let mut scan = Scan::new(Pricing::with((sheet, UnknownModel::Family), policy, NOW_S));
    for (url, body) in lines {
        let line = json!({ "custom_id": "x", "method": "POST", "url": url, "body": body }).to_string();
        let number = scan.next();
        scan.add(number, ReadLine::of(line.as_bytes()));
    }
    scan.finish(false)
}

fn response(more: &Value) -> (&'static str, Value) {
    let mut body =
        json!({ "model": "gpt-5", "input": "hello", "max_output_tokens": 50, "max_tool_calls": 1 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    ("/v1/responses", body)
}

fn fault(file: &BatchFile) -> &str {
    file.fault.as_ref().map_or("", |fault| &fault.why)
}

#[test]
fn lines_of_one_model_have_one_hold_that_knows_all_of_their_tools() {
    let tool = |quality: &str| json!({ "tools": [{ "type": "image_generation", "model": "gpt-image-1", "quality": quality }] });
    let plain = scanned(&[response(&json!({}))]);
    assert!(plain.groups[0].is_plain);
    let file = scanned(&[response(&json!({})), response(&tool("low")), response(&tool("high"))]);
    assert_eq!((fault(&file), file.groups.len(), file.lines), ("", 1, 3));
    let group = &file.groups[0];
    assert_eq!((group.image_model.as_deref(), group.is_plain), (Some("gpt-image-1"), false));
    let sheet = Arc::new(Sheet::built_in(&[]).unwrap());
    let bill = group.terms.bill(&sheet, UnknownModel::Family).unwrap();
    assert!(bill.image_price.is_some_and(|price| &*price.id == "gpt-image-1"));
    let drawn = crate::pricing::image_tool::output_tokens(&bill.tools.image.unwrap());
    let high =
        scanned(&[response(&tool("high"))]).groups[0].terms.bill(&sheet, UnknownModel::Family).unwrap();
    assert_eq!(
        drawn,
        crate::pricing::image_tool::output_tokens(&high.tools.image.unwrap()),
        "the dearer one"
    );
    let other = json!({ "tools": [{ "type": "image_generation", "model": "gpt-image-2" }] });
    let mixed = scanned(&[response(&tool("low")), response(&other)]);
    assert!(fault(&mixed).contains("another model for images"), "{}", fault(&mixed));
}

#[test]
fn images_of_two_models_need_two_files_since_their_answers_name_none() {
    let draw = |model: &str| ("/v1/images/generations", json!({ "model": model, "prompt": "a cat" }));
    let file = scanned(&[draw("gpt-image-1-mini"), draw("gpt-image-1")]);
    assert_eq!(file.fault.as_ref().map(|fault| fault.line), Some(2));
    assert!(fault(&scanned(&[draw("gpt-image-1"), draw("gpt-image-1")])).is_empty());
}

#[test]
fn a_dearer_tier_of_a_line_is_what_an_answer_without_one_is_billed_at() {
    let sheet = Arc::new(Sheet::built_in(&[]).unwrap());
    let tier = |lines: &[(&str, Value)]| {
        let file = scanned(lines);
        assert!(!file.groups[0].is_plain || lines.len() == 1);
        file.groups[0].terms.bill(&sheet, UnknownModel::Family).unwrap().requested_tier
    };
    assert_eq!(tier(&[response(&json!({ "service_tier": "flex" }))]), Some(Tier::Batch));
    let both = [response(&json!({})), response(&json!({ "service_tier": "priority" }))];
    assert_eq!(tier(&both), Some(Tier::Priority));
}

#[test]
fn what_is_free_is_noted() {
    let file = scanned(&[response(&json!({})), ("/v1/moderations", json!({ "input": "x" }))]);
    assert_eq!((file.free_line, file.lines, file.groups.len()), (Some(2), 2, 1));
}
