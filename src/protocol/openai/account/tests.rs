//! Where an answer speaks of the account, and where it only seems to.

use super::*;

fn last(part: &str) -> &str {
    &part[last_event(part.as_bytes())..]
}

#[test]
fn a_part_without_an_error_is_read_from_its_last_event_on() {
    for (part, rest) in [
        ("data: a\n\n", ""),
        ("data: a\n\ndata: b", "data: b"),
        ("data: a\r\n\r\ndata: b\r\n", "data: b\r\n"),
        ("data: a\r\rdata: b\r", "data: b\r"),
        ("data: a\n\nevent: x\ndata: b\n", "event: x\ndata: b\n"),
        ("data: a", "data: a"),
        ("", ""),
    ] {
        assert_eq!(last(part), rest, "{part:?}");
    }
}

#[test]
fn lines_of_an_event_are_distinguished_by_their_fields() {
    let stream = concat!(
        ": error in org-1\nid: 1\nevent: error\ndata: not even JSON\n\n",
        "data: {\"a\":1,\ndata: \"error\":{\"b\":2},\ndata: \"c\":3}\n\n",
        "event: done\ndata: {\"message\":\"m\",\"error\":null,\"data\":{\"message\":\"n\"}}\n\n",
    );
    let text = |span: Range<usize>| &stream[span];
    let found: Vec<_> = Texts::of_events().find(stream.as_bytes()).into_iter().map(text).collect();
    assert_eq!(found, [" not even JSON", "{\"b\":2}", "\"m\"", "null"]);
}

#[test]
fn what_is_not_json_ends_without_a_text() {
    for answer in ["", "]]]}}}", "{\"error\"}", "[{\"error\":1}]", "{\"a\":[\"error\",{\"error\":1}]}"] {
        assert!(texts(answer.as_bytes()).is_empty(), "{answer}");
    }
    assert_eq!(texts(b"{\"error\":\"cut").first(), Some(&(9..13)));
    let deep = format!("{}{{\"error\":1", "[".repeat(10_000));
    assert!(texts(deep.as_bytes()).is_empty());
}
