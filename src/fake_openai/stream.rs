//! The fake's event streams, in OpenAI's exact form. A frame has one event, or those that come at once.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use serde_json::{Value, json};
use tokio::time::Sleep;

use crate::fake_openai::answers::{Api, Made, word};
use crate::fake_openai::{Fake, number};

/// A stream of events. The part that was sent is counted when it ends or is
/// dropped.
#[derive(Debug)]
pub(super) struct Events {
    fake: Arc<Fake>,
    made: Made,
    include_usage: bool,
    cut_after: Option<u64>,
    delay: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    words: u64,
    sequence: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Start,
    Words,
    Usage,
    Done,
    Over,
}

impl Events {
    pub(super) fn new(fake: Arc<Fake>, made: Made, headers: &HeaderMap, request: &Value) -> Self {
        let include_usage = request["stream_options"]["include_usage"] == true && made.with_usage;
        let delay = number(headers, "x-fake-chunk-delay-ms").map(Duration::from_millis);
        let cut_after = number(headers, "x-fake-cut-after");
        Self {
            fake,
            made,
            include_usage,
            cut_after,
            delay,
            sleep: None,
            words: 0,
            sequence: 0,
            stage: Stage::Start,
        }
    }

    /// The events of a whole response behind a sequence number.
    pub(super) fn text(made: Made, after: Option<u64>) -> String {
        let mut events = Self::new(Arc::default(), made, &HeaderMap::new(), &Value::Null);
        let whole: String = std::iter::from_fn(|| events.next()).collect();
        let skipped = after.map_or(0, |after| usize::try_from(after + 1).unwrap_or(usize::MAX));
        whole.split_inclusive("\n\n").skip(skipped).collect()
    }

    fn next(&mut self) -> Option<String> {
        if self.made.api == Api::Responses { self.next_response() } else { self.next_chunk() }
    }

    fn next_chunk(&mut self) -> Option<String> {
        let chunk = match self.stage {
            Stage::Start => {
                self.stage = Stage::Words;
                self.made.chunk(&json!({ "role": "assistant", "content": "", "refusal": null }), None)
            }
            Stage::Words if self.words < self.made.completion_tokens => {
                self.words += 1;
                self.made.chunk(&json!({ "content": word(self.words - 1) }), None)
            }
            Stage::Words => {
                self.stage = if self.include_usage { Stage::Usage } else { Stage::Done };
                self.made.chunk(&json!({}), Some("stop"))
            }
            Stage::Usage => {
                self.stage = Stage::Done;
                let mut last = self.made.chunk(&json!({}), None);
                last["choices"] = json!([]);
                last["usage"] = self.made.usage();
                return Some(format!("data: {last}\n\n"));
            }
            Stage::Done => {
                self.stage = Stage::Over;
                return Some("data: [DONE]\n\n".to_owned());
            }
            Stage::Over => return None,
        };
        let text = chunk.to_string();
        if self.include_usage {
            // As upstream writes it: at the end of the chunk.
            return Some(format!("data: {},\"usage\":null}}\n\n", text.strip_suffix('}').unwrap_or(&text)));
        }
        Some(format!("data: {text}\n\n"))
    }

    fn next_response(&mut self) -> Option<String> {
        let of_item = |key: &str, value: Value| json!({ "output_index": 0, key: value });
        let of_part = |key: &str, value: Value| json!({ "item_id": "msg_fake", "output_index": 0, "content_index": 0, "logprobs": [], key: value });
        let events = match self.stage {
            Stage::Start => {
                self.stage = Stage::Words;
                let (mut message, mut part) = (self.made.message(), self.made.part());
                (message["status"], message["content"]) = (json!("in_progress"), json!([]));
                part["text"] = json!("");
                vec![
                    (
                        "response.created",
                        json!({ "response": self.made.response("in_progress", &Value::Null) }),
                    ),
                    ("response.output_item.added", of_item("item", message)),
                    ("response.content_part.added", of_part("part", part)),
                ]
            }
            Stage::Words if self.words < self.made.completion_tokens => {
                self.words += 1;
                vec![("response.output_text.delta", of_part("delta", json!(word(self.words - 1))))]
            }
            Stage::Words | Stage::Usage | Stage::Done => {
                self.stage = Stage::Over;
                if self.made.in_background {
                    self.fake.end_in_background(&self.made.id);
                }
                let (message, part) = (self.made.message(), self.made.part());
                let response = self.made.response("completed", &self.made.usage());
                vec![
                    ("response.output_text.done", of_part("text", part["text"].clone())),
                    ("response.content_part.done", of_part("part", part)),
                    ("response.output_item.done", of_item("item", message)),
                    ("response.completed", json!({ "response": response })),
                ]
            }
            Stage::Over => return None,
        };
        Some(events.into_iter().map(|(kind, event)| self.event(kind, event)).collect())
    }

    fn event(&mut self, kind: &str, mut event: Value) -> String {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        format!("event: {kind}\ndata: {event}\n\n")
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(sleep) = self.sleep.as_mut() {
            std::task::ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        if self.cut_after.is_some_and(|after| self.words >= after) {
            return Poll::Ready(Some(Err(std::io::Error::other("cut as ordered"))));
        }
        let Some(event) = self.next() else { return Poll::Ready(None) };
        if self.stage == Stage::Words {
            self.sleep = self.delay.map(|delay| Box::pin(tokio::time::sleep(delay)));
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(event)))))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // One in the background goes on.
        if !self.made.in_background {
            self.fake.note(&self.made.model, self.made.served(self.words));
        }
    }
}
