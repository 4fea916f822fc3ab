//! Usage is hidden in every form that servers give it.

use super::*;

/// What a client gets that did not ask for usage.
fn hidden(stream: &str, cuts: &[usize]) -> (String, Option<Quantities>) {
    let mut tap = tap(Hide::InjectedUsage);
    let out = run(&mut tap, stream.as_bytes(), cuts);
    (String::from_utf8(out).unwrap(), tap.answer().usage)
}

fn used(input: u64, output: u64) -> Quantities {
    Quantities::from([(Class::Input, input), (Class::Output, output)])
}

#[test]
fn usage_beside_choices_or_in_each_chunk_is_hidden_and_charged() {
    let usage = |output: u64| {
        format!(r#","usage":{{"prompt_tokens":9,"completion_tokens":{output},"x":{{"y":[1,"}}"]}}}}"#)
    };
    for end in ["\n", "\r", "\r\n"] {
        let chunk = |text: &str, finish: &str, usage: &str| {
            format!(
                r#"data: {{"id":"c","model":"m","choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]{usage},"z":1}}{end}{end}"#
            )
        };
        let done = format!("data: [DONE]{end}{end}");
        let direct = chunk("a", "null", "") + &chunk("b", "\"stop\"", "") + &done;
        let each = chunk("a", "null", &usage(1)) + &chunk("b", "\"stop\"", &usage(2)) + &done;
        let last = chunk("a", "null", "") + &chunk("b", "\"stop\"", &usage(2)) + &done;
        let early = chunk("a", "null", &usage(2)) + &chunk("", "\"stop\"", "") + &done;
        let nulls = chunk("a", "null", r#","usage":null"#) + &chunk("b", "\"stop\"", &usage(2)) + &done;
        for stream in [&each, &last, &nulls] {
            for cuts in [vec![], vec![1; stream.len()], vec![40, 3, 100, 7, 50]] {
                assert_eq!(hidden(stream, &cuts), (direct.clone(), Some(used(9, 2))), "{stream}");
            }
        }
        assert_eq!(hidden(&early, &[]).1, Some(used(9, 2)));
    }
}

#[test]
fn a_chunk_that_is_all_usage_is_dropped_with_or_without_a_list_of_choices() {
    for choices in [r#""choices":[],"#, r#""choices":null,"#, ""] {
        let stream =
            format!(r#"data: {{"id":"c",{choices}"usage":{{"prompt_tokens":9,"completion_tokens":2}}}}"#);
        assert_eq!(hidden(&format!("{stream}\n\n"), &[]), (String::new(), Some(used(9, 2))), "{stream}");
    }
}

#[test]
fn usage_is_hidden_in_events_of_several_data_lines() {
    let stream = "data: {\"choices\":[{}],\r\ndata: \"usage\":\r\n: note\r\ndata: {\"prompt_tokens\":9},\r\ndata: \"b\":1}\r\n\r\n";
    let (out, _) = hidden(stream, &[]);
    assert_eq!(out, "data: {\"choices\":[{}]\r\ndata: \r\n: note\r\ndata: ,\r\ndata: \"b\":1}\r\n\r\n");
}

#[test]
fn usage_that_more_output_follows_is_only_the_least_that_was_used() {
    let chunk = |text: &str, usage: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]{usage}}}\n\n")
    };
    let zero = r#","usage":{"prompt_tokens":0,"completion_tokens":0}"#;
    let some = r#","usage":{"prompt_tokens":7,"completion_tokens":1}"#;
    let alone =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1}}\n\n".to_owned();
    let done = "data: [DONE]\n\n";
    for (stream, usage, so_far) in [
        (chunk("a", zero) + &chunk("b", "") + done, None, Some(used(0, 0))),
        (chunk("a", some) + &chunk("b", "") + done, None, Some(used(7, 1))),
        (alone.clone() + &chunk("b", "") + done, None, Some(used(7, 1))),
        (chunk("a", some), None, Some(used(7, 1))),
        (chunk("a", some) + done, Some(used(7, 1)), None),
        (chunk("a", "") + &alone, Some(used(7, 1)), None),
        (chunk("a", zero) + done, Some(used(0, 0)), None),
    ] {
        let mut tap = tap(Hide::Nothing);
        run(&mut tap, stream.as_bytes(), &[]);
        let answer = tap.answer();
        let got = (answer.usage, answer.used_so_far);
        assert_eq!(got, (usage, so_far), "{stream}");
    }
}

#[test]
fn of_several_usages_the_larger_input_and_output_count() {
    let chunk = |usage: &str| format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
    let first = chunk(r#"{"prompt_tokens":100}"#);
    let last = chunk(r#"{"prompt_tokens":0,"completion_tokens":50}"#);
    assert_eq!(hidden(&first, &[]).1, None, "the output is missing");
    assert_eq!(hidden(&(first.clone() + &last), &[]).1, Some(used(100, 50)));
    assert_eq!(hidden(&(last + &first), &[]).1, Some(used(100, 50)));
}
