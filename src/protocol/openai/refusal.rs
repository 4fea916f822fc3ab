//! Error bodies in OpenAI's shape, whole or inside a running stream.
//!
//! The proxy chooses their status and headers. A stream that is cut must carry an
//! error event: both SDKs take a bare end of a chat stream for success.

use serde::Serialize;

/// The inner object of an OpenAI error; all four members are always written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody<'a> {
    /// What happened, and the remedy.
    pub message: &'a str,
    /// The `type`, such as `insufficient_quota`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The parameter at fault, if one is.
    pub param: Option<&'a str>,
    /// The `code`, what programs look at.
    pub code: Option<&'a str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorBody<'a>,
}

/// Both known forms in one: flat for readers of the specification, nested
/// because the Python SDK raises only then.
#[derive(Serialize)]
struct StreamError<'a> {
    r#type: &'static str,
    sequence_number: u64,
    code: Option<&'a str>,
    message: &'a str,
    param: Option<&'a str>,
    error: &'a ErrorBody<'a>,
}

impl ErrorBody<'_> {
    /// The whole body of a refusal.
    pub fn to_json(&self) -> String {
        written(&Envelope { error: self })
    }
}

/// The last event of a chat or completions stream that is cut; no `[DONE]`.
pub fn stream_cut_chat(body: &ErrorBody<'_>) -> String {
    format!("data: {}\n\n", body.to_json())
}

/// The last event of a responses stream that is cut.
pub fn stream_cut_responses(body: &ErrorBody<'_>, sequence: u64) -> String {
    let event = StreamError {
        r#type: "error",
        sequence_number: sequence,
        code: body.code,
        message: body.message,
        param: body.param,
        error: body,
    };
    format!("event: error\ndata: {}\n\n", written(&event))
}

fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers always serialise")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const BODY: ErrorBody<'_> = ErrorBody {
        message: "You \"spent\" it\nall\u{2028}",
        kind: "insufficient_quota",
        param: None,
        code: Some("project_spend_limit_exceeded"),
    };

    #[test]
    fn all_four_members_are_written_in_openais_order() {
        let plain = ErrorBody { message: "no", ..BODY };
        assert_eq!(
            plain.to_json(),
            r#"{"error":{"message":"no","type":"insufficient_quota","param":null,"code":"project_spend_limit_exceeded"}}"#
        );
    }

    #[test]
    fn any_text_survives() {
        let value: Value = serde_json::from_str(&BODY.to_json()).unwrap();
        assert_eq!(value["error"]["message"], BODY.message);
    }

    #[test]
    fn a_cut_stream_ends_in_one_error_event() {
        let chat = stream_cut_chat(&BODY);
        assert!(chat.starts_with("data: {\"error\":") && chat.ends_with("}\n\n"));
        assert_eq!(chat.matches('\n').count(), 2);

        let cut = stream_cut_responses(&BODY, 7);
        let json = cut.strip_prefix("event: error\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(value["type"], "error");
        assert_eq!(value["sequence_number"], 7);
        assert_eq!(value["code"], value["error"]["code"]);
        assert_eq!(value["message"], value["error"]["message"]);
    }
}
