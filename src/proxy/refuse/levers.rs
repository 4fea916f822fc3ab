//! The fields that a client can lower so that its request costs less.

use crate::domain::Demand;
use crate::protocol::openai::operation::Operation;

/// The fields of a request that its bound depends on, by their names on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levers {
    /// The field that bounds hosted tool calls, if the request offers such tools.
    tool_calls: Option<&'static str>,
    /// The field that bounds the output.
    output: Option<&'static str>,
    /// The field that asks for several answers, if it does.
    choices: Option<&'static str>,
    /// The whole advice, where a request has no such fields.
    instead: Option<&'static str>,
}

impl Levers {
    /// The fields of a request.
    pub fn of(operation: &Operation, demand: &Demand) -> Self {
        Self {
            tool_calls: demand.tools.loops.then_some("max_tool_calls"),
            // Beside a prediction OpenAI takes no output bound.
            output: operation.output_field.filter(|_| demand.prediction_bytes == 0),
            choices: (demand.choices > 1 && operation.has_choices).then_some("n"),
            instead: None,
        }
    }

    /// Those of a batch.
    pub const BATCH: Self =
        Self::advising("Set a lower output bound in its lines, or send fewer lines at a time.");
    /// Those of a container that is made.
    pub const CONTAINER: Self = Self::advising("Ask for a smaller memory_limit or a shorter expires_after.");
    /// Those of files that are added to a vector store.
    pub const FILES: Self = Self::advising("Add fewer files at a time.");
    /// Those of a search in a vector store.
    pub const SEARCH: Self = Self::advising("Send fewer queries at a time.");

    const fn advising(advice: &'static str) -> Self {
        Self { tool_calls: None, output: None, choices: None, instead: Some(advice) }
    }

    /// A sentence that names what to lower.
    pub(super) fn advice(self) -> String {
        if let Some(advice) = self.instead {
            return format!(" {advice}");
        }
        let fields: Vec<&str> = [self.tool_calls, self.output, self.choices].into_iter().flatten().collect();
        match fields.as_slice() {
            [] => " Send less input.".to_owned(),
            [first] => format!(" Lower {first} or send less input."),
            [first, rest @ ..] => format!(" Lower {first} or {}, or send less input.", rest.join(" or ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::openai::{CHAT, EMBEDDINGS, RESPONSES};

    #[test]
    fn the_advice_names_the_fields_that_help() {
        let plain = Demand { choices: 1, ..Demand::default() };
        let mut tools = plain.clone();
        tools.tools.loops = true;
        for (operation, demand, advice) in [
            (&EMBEDDINGS, &plain, " Send less input."),
            (&CHAT, &plain, " Lower max_completion_tokens or send less input."),
            (&RESPONSES, &tools, " Lower max_tool_calls or max_output_tokens, or send less input."),
            (
                &CHAT,
                &Demand { choices: 4, ..tools.clone() },
                " Lower max_tool_calls or max_completion_tokens or n, or send less input.",
            ),
        ] {
            assert_eq!(Levers::of(operation, demand).advice(), advice);
        }
    }
}
