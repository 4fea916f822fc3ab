//! Holds the last usage of a stream back until its cost is known, and adds the cost to it.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::events::Event;
use crate::domain::Money;
use crate::protocol::openai::json::{member, value_end};

/// The most bytes that are held back. Usage stands behind everything that is long.
const HELD_BYTES_MAX: usize = 256 << 10;

static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// The place in an event where the cost of its usage is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CostPlace<'a> {
    /// The event from this place on.
    rest: &'a [u8],
    /// Bytes that the cost replaces.
    replaced: usize,
    /// What is written before the amount.
    before: &'static str,
}

impl<'a> CostPlace<'a> {
    /// That of an event, which is a usage of its own or a response that has one.
    pub(super) fn in_event(bytes: &'a [u8]) -> Option<Self> {
        USAGE.find(bytes)?;
        let event = Event::of(bytes);
        let data = &*event.data;
        let within = |object: usize| {
            let usage = object + member(&data[object..], b"usage")?;
            (data.get(usage) == Some(&b'{')).then_some(usage)
        };
        let usage = within(0).or_else(|| within(member(data, b"response")?))?;
        let inside = &data[usage..value_end(data, usage)];
        let members = inside.strip_suffix(b"}")?;
        let (at, replaced, before) = match member(inside, b"cost") {
            Some(cost) => (cost, value_end(inside, cost) - cost, ""),
            None if members[1..].trim_ascii().is_empty() => (members.len(), 0, "\"cost\":"),
            None => (members.len(), 0, ",\"cost\":"),
        };
        Some(Self { rest: &bytes[event.place(usage + at)?..], replaced, before })
    }
}

/// The end of a stream that has not been passed on.
#[derive(Debug, Default)]
pub(super) struct LastUsage {
    /// The end of the current event; before it the last usage, if nothing has come after it.
    held: BytesMut,
    /// Where the current event begins in them.
    event_at: usize,
    /// Where in them the cost is written, the bytes that it replaces, and what is written before it.
    place: Option<(usize, usize, &'static str)>,
}

impl LastUsage {
    /// Holds a part of an event back; writes what may pass.
    pub(super) fn hold(&mut self, part: &[u8], out: &mut BytesMut) {
        self.held.extend_from_slice(part);
        self.pass(self.held.len().saturating_sub(HELD_BYTES_MAX), out);
    }

    /// Ends an event, which has its cost there; `goes_on` if it shows that more is to come.
    pub(super) fn end_event(&mut self, place: Option<CostPlace<'_>>, goes_on: bool, out: &mut BytesMut) {
        // What was read of the event may lack a part of it, and what is held its beginning.
        let place = place.filter(|place| self.held[self.event_at..].ends_with(place.rest));
        if let Some(CostPlace { rest, replaced, before }) = place {
            self.pass(self.event_at, out);
            self.place = Some((self.held.len() - rest.len(), replaced, before));
        } else if goes_on || self.place.is_none() {
            self.pass(self.held.len(), out);
        }
        self.event_at = self.held.len();
    }

    /// Gives out what is held back, with a cost at its place if it is known.
    pub(super) fn release(&mut self, cost: Option<Money>) -> Bytes {
        let Self { held, place, .. } = std::mem::take(self);
        let Some(((at, replaced, before), cost)) = place.zip(cost) else { return held.freeze() };
        let amount = cost.to_string();
        [&held[..at], before.as_bytes(), amount.as_bytes(), &held[at + replaced..]].concat().into()
    }

    /// Whether the client lacks a usage that was read.
    pub(super) const fn is_known(&self) -> bool {
        self.place.is_some()
    }

    fn pass(&mut self, count: usize, out: &mut BytesMut) {
        out.extend_from_slice(&self.held.split_to(count));
        self.event_at = self.event_at.saturating_sub(count);
        self.place =
            self.place.and_then(|(at, replaced, before)| Some((at.checked_sub(count)?, replaced, before)));
    }
}
