//! Watches an answer's event stream as it passes, without input or output.
//!
//! The tap notes usage, model, tier and id, and gathers the text in case no
//! usage comes. It leaves every byte as it is, unless usage was asked for on
//! the client's behalf: then it takes out what that added, so that the
//! client gets byte for byte what it would have got. Or it holds the last usage back
//! until its cost is known, and adds that. Ordinary events are not parsed, only searched.

mod brought;
mod chunk;
mod events;
mod hide;
mod last_usage;
mod media;
mod observer;
mod text;

use bytes::{Bytes, BytesMut};

pub use self::brought::Brought;
use self::chunk::UsageMember;
use self::events::{Boundary, Event};
use self::last_usage::{CostPlace, LastUsage};
use self::media::Skim;
use self::observer::Observer;
use super::usage::{Answer, AnswerForm, Outcome};
use crate::domain::Money;

/// The form of an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventForm {
    /// Chunks of one kind, `[DONE]` at the end.
    Chunks,
    /// Events of a response, each type with a name of its own.
    Typed,
    /// Events that carry images or sound, and usage where a part is complete.
    Media,
}

/// The parts that must not reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hide {
    /// None.
    Nothing,
    /// The usage that the client did not ask for.
    InjectedUsage,
}

/// An observer of one stream.
#[derive(Debug)]
pub struct Tap {
    hide: Hide,
    event_bytes_max: usize,
    boundary: Boundary,
    /// The start of an event whose end hasn't come.
    partial: BytesMut,
    /// Leaves out of `partial` what no reader looks at; `None` if all of it is kept.
    skim: Option<Skim>,
    /// Whether the current event is too large to be looked at.
    oversized: bool,
    /// Whether the last event was taken out, its line end included.
    dropped: bool,
    /// Holds the last usage back; `None` if it passes as it is.
    last_usage: Option<LastUsage>,
    observer: Observer,
}

impl Tap {
    /// A tap for one stream; larger events pass unread and unedited.
    pub fn new(form: EventForm, answers: AnswerForm, hide: Hide, event_bytes_max: usize) -> Self {
        Self {
            hide,
            event_bytes_max,
            boundary: Boundary::new(),
            partial: BytesMut::new(),
            skim: (form == EventForm::Media).then(Skim::default),
            oversized: false,
            dropped: false,
            last_usage: None,
            observer: Observer::new(form, answers),
        }
    }

    /// Holds the last usage back from now on, until [`Tap::release`].
    ///
    /// It has no effect where the usage is hidden.
    pub fn hold_last_usage(&mut self) {
        self.last_usage = (self.hide == Hide::Nothing).then(LastUsage::default);
    }

    /// Ends what is held back of the last usage; adds its cost to it, in dollars, if it is known.
    pub fn release(&mut self, cost: Option<Money>) -> Bytes {
        self.last_usage.as_mut().map(|last| last.release(cost)).unwrap_or_default()
    }

    /// Takes a frame; returns the bytes that may be sent to the client now.
    pub fn feed(&mut self, frame: Bytes) -> Bytes {
        match self.hide {
            Hide::Nothing => {
                let mut out = BytesMut::new();
                self.watch(&frame, &mut out);
                if self.last_usage.is_some() { out.freeze() } else { frame }
            }
            Hide::InjectedUsage => self.filter(&frame),
        }
    }

    /// Ends the stream, which upstream has ended; returns the bytes that were held back.
    pub fn finish(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.partial);
        let mut out = BytesMut::with_capacity(rest.len());
        if !rest.is_empty() {
            self.event(&rest, &mut out);
        }
        self.observer.finish();
        match self.hide {
            Hide::InjectedUsage if !hide::is_cut_usage(&Event::of(&rest).data) => out.freeze(),
            Hide::InjectedUsage | Hide::Nothing => Bytes::new(),
        }
    }

    /// The answer so far.
    pub fn answer(&self) -> Answer {
        self.observer.answer()
    }

    /// Whether an event came that ends the stream, well or badly.
    pub fn is_done(&self) -> bool {
        self.observer.outcome() != Outcome::Open
    }

    /// Whether nothing can come that would change what the stream costs: it has
    /// ended, and either says what was used or has no more to say. After an error
    /// without usage some servers go on.
    pub fn is_accountable(&self) -> bool {
        match self.observer.outcome() {
            Outcome::Open => false,
            Outcome::Completed | Outcome::Stopped => true,
            Outcome::Failed => self.observer.has_usage(),
        }
    }

    /// Calls of hosted tools that have started so far.
    pub fn hosted_calls(&self) -> u64 {
        self.observer.hosted_calls()
    }

    /// Keeps the results of hosted tools from now on, to be taken by [`Tap::brought`].
    pub fn watch_context(&mut self) {
        self.observer.watch_context();
    }

    /// The results of hosted tools since the last call.
    pub fn brought(&mut self) -> Vec<Brought> {
        self.observer.brought()
    }

    /// Whether any output of the model came.
    pub fn seen_output(&self) -> bool {
        self.observer.transcript().has_output()
    }

    /// The text so far: content, reasoning, refusals, arguments of calls. It
    /// is bounded; see [`Tap::transcript_bytes`].
    pub fn transcript(&self) -> &str {
        self.observer.transcript().text()
    }

    /// Bytes of text so far, those past the bound included.
    pub fn transcript_bytes(&self) -> u64 {
        self.observer.transcript().bytes()
    }

    /// Whether the client has the start of an event but not its end.
    pub fn is_mid_event(&self) -> bool {
        self.oversized || (self.hide == Hide::Nothing && !self.partial.is_empty())
    }

    /// Reads the events of a frame that passes as it is; writes to `out` what may pass of it
    /// if the last usage is held back.
    fn watch(&mut self, frame: &[u8], out: &mut BytesMut) {
        let mut from = 0;
        while let Some(end) = self.boundary.next_end(frame, from) {
            let event = &frame[from..end];
            if std::mem::take(&mut self.oversized) {
                self.partial.clear();
                self.observer.pass_unread();
                self.hold(event, Some(b""), out);
            } else if self.partial.is_empty() {
                self.observe(event);
                self.hold(event, Some(event), out);
            } else {
                self.keep(event);
                let whole = std::mem::take(&mut self.partial);
                self.observe(&whole);
                self.hold(event, Some(&whole), out);
            }
            from = end;
        }
        let rest = &frame[from..];
        self.hold(rest, None, out);
        if !self.oversized {
            self.keep(rest);
            if self.partial.len() > self.event_bytes_max {
                self.partial = BytesMut::new();
                self.oversized = true;
            }
        }
    }

    /// Holds a part of an event back, if the last usage is; `ended` is what was read of the
    /// event that ends there.
    fn hold(&mut self, part: &[u8], ended: Option<&[u8]>, out: &mut BytesMut) {
        let is_accountable = self.is_accountable();
        let Some(last) = &mut self.last_usage else { return };
        last.hold(part, out);
        if let Some(event) = ended {
            let says_something = last.is_known() && !Event::of(event).data.is_empty();
            last.end_event(CostPlace::in_event(event), says_something && !is_accountable, out);
        }
    }

    /// Keeps a part of an event.
    fn keep(&mut self, part: &[u8]) {
        match &mut self.skim {
            Some(skim) => skim.append(part, &mut self.partial),
            None => self.partial.extend_from_slice(part),
        }
    }

    /// Passes on the events of a frame without what is to be hidden.
    fn filter(&mut self, frame: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(self.partial.len() + frame.len());
        let mut from = self.owed_lf(frame, &mut out);
        while let Some(end) = self.boundary.next_end(frame, from) {
            let event = &frame[from..end];
            if std::mem::take(&mut self.oversized) {
                out.extend_from_slice(event);
                self.dropped = false;
                self.observer.pass_unread();
            } else if self.partial.is_empty() {
                self.event(event, &mut out);
            } else {
                self.partial.extend_from_slice(event);
                let whole = std::mem::take(&mut self.partial);
                self.event(&whole, &mut out);
            }
            from = end + self.owed_lf(&frame[end..], &mut out);
        }
        let rest = &frame[from..];
        if self.oversized {
            out.extend_from_slice(rest);
        } else {
            self.partial.extend_from_slice(rest);
            if self.partial.len() > self.event_bytes_max {
                out.extend_from_slice(&std::mem::take(&mut self.partial));
                self.oversized = true;
            }
        }
        out.freeze()
    }

    /// The LF of a CRLF whose CR ended the last event is treated like that event.
    fn owed_lf(&mut self, frame: &[u8], out: &mut BytesMut) -> usize {
        let owed = self.partial.is_empty() && !self.oversized && self.boundary.owes_lf();
        if !owed || frame.first() != Some(&b'\n') {
            return 0;
        }
        let _ = self.boundary.next_end(&frame[..1], 0);
        if !self.dropped {
            out.extend_from_slice(b"\n");
        }
        1
    }

    fn observe(&mut self, event: &[u8]) {
        if event.len() <= self.event_bytes_max {
            self.observer.see(&Event::of(event));
        } else {
            self.observer.pass_unread();
        }
    }

    /// Observes an event and writes what may pass of it.
    fn event(&mut self, event: &[u8], out: &mut BytesMut) {
        self.dropped = false;
        if event.len() > self.event_bytes_max {
            self.observer.pass_unread();
            return out.extend_from_slice(event);
        }
        let parts = Event::of(event);
        match self.observer.see(&parts) {
            UsageMember::Given(_) if hide::is_usage_only(&parts.data) => self.dropped = true,
            UsageMember::Given(span) | UsageMember::Null(span) => parts.write_without(event, span, out),
            UsageMember::Absent => out.extend_from_slice(event),
        }
    }
}

#[cfg(test)]
mod tests;
