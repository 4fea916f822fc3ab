//! What the next response of a session reads, at the most.
//!
//! A response reads the whole conversation. Its size is known from the usage of the last response;
//! whatever has come since is added. An item that was sent while a response began may be in that
//! one's usage or not, so it counts until the next response has begun as well.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::demand::Image;
use crate::domain::{Class, Quantities};
use crate::pricing::bound::AUDIO_MS_PER_TOKEN;
use crate::protocol::openai::realtime::{Content, Settings, SoundFormat};
use crate::proxy::socket::turn::Amount;

/// Tokens around an item that is not the client's, whose text does not show them.
const ITEM_TOKENS: u64 = 32;
/// How late upstream may report that speech has begun, and how much of the sound before it belongs to
/// it, in milliseconds each: older silence is in no item.
const REPORT_MS_MAX: u64 = 15_000;
/// How exactly it is remembered when sound was sent.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// The most images of a session.
pub(super) const IMAGES_MAX: usize = 256;
/// Commits and clears that upstream has not answered.
const UNANSWERED_MAX: usize = 64;

/// The conversation of a session.
#[derive(Debug, Default)]
pub(super) struct Context {
    known: Amount,
    /// Added before the last response began, and since.
    older: Amount,
    newer: Amount,
    /// Images before the last response began, and since.
    older_images: Vec<Image>,
    newer_images: Vec<Image>,
    sound: Sound,
}

/// The sound that is no item yet. Times are milliseconds of all sound that was sent.
#[derive(Debug, Default)]
struct Sound {
    /// What was sent, in units of which a millisecond has 48: a byte of samples is one of them, a byte
    /// of a telephone's six.
    sent: u64,
    /// Up to where it is an item or was dropped.
    taken_ms: u64,
    /// Where the item ends that speech has made, while it is not committed.
    ends_ms: Option<u64>,
    is_speech: bool,
    /// When so much had been sent, the oldest first; the first is older than a report may be late.
    marks: VecDeque<(Duration, u64)>,
    /// Where the client has committed or cleared it.
    commits: VecDeque<Cut>,
    clears: VecDeque<Cut>,
}

/// A place in the sound that a client's message has set.
#[derive(Debug)]
struct Cut {
    event_id: String,
    /// Whether the client has given the message that name, or the guard.
    is_named: bool,
    at_ms: u64,
}

impl Context {
    /// Adds what a message puts into the conversation.
    pub(super) fn add(&mut self, content: &Content, format: SoundFormat) {
        let sound = format.millis(content.sound_bytes).div_ceil(AUDIO_MS_PER_TOKEN);
        self.newer = self.newer.plus(Amount { text: content.text_bytes, sound });
        self.newer_images.extend_from_slice(&content.images);
    }

    /// The images that the next response reads.
    pub(super) fn images(&self) -> Vec<Image> {
        [self.older_images.as_slice(), &self.newer_images].concat()
    }

    pub(super) fn image_count(&self) -> usize {
        self.older_images.len() + self.newer_images.len()
    }

    /// Adds sound that is no item yet.
    pub(super) fn append(&mut self, bytes: u64, format: SoundFormat, now: Duration) {
        let each = match format {
            SoundFormat::Samples => 1,
            SoundFormat::Telephone => 6,
        };
        self.sound.mark(now);
        self.sound.sent = self.sound.sent.saturating_add(bytes.saturating_mul(each));
    }

    /// The client has committed its sound; false if upstream has answered too few such messages.
    pub(super) fn commit(&mut self, event_id: &str, is_named: bool) -> bool {
        let at_ms = self.sound.sent_ms();
        pushed(&mut self.sound.commits, event_id, is_named, at_ms)
    }

    /// The client has dropped its sound.
    pub(super) fn clear(&mut self, event_id: &str, is_named: bool) -> bool {
        let at_ms = self.sound.sent_ms();
        pushed(&mut self.sound.clears, event_id, is_named, at_ms)
    }

    /// Upstream has refused to commit or to clear; returns whether the client has named that message.
    pub(super) fn uncut(&mut self, event_id: &str) -> Option<bool> {
        let Sound { commits, clears, .. } = &mut self.sound;
        [commits, clears].into_iter().find_map(|cuts| {
            let place = cuts.iter().position(|cut| cut.event_id == event_id)?;
            cuts.remove(place).map(|cut| cut.is_named)
        })
    }

    /// Whether upstream has yet to say what became of sound that was dropped.
    pub(super) fn is_clearing(&self) -> bool {
        !self.sound.clears.is_empty()
    }

    pub(super) fn speech_began(&mut self, at_ms: u64) {
        self.sound.take_to(at_ms);
        self.sound.is_speech = true;
    }

    pub(super) fn speech_ended(&mut self, at_ms: u64) {
        self.sound.ends_ms = Some(at_ms);
    }

    /// The sound has become an item; returns whether upstream has found where that ends, and may
    /// answer it.
    pub(super) fn committed(&mut self) -> bool {
        let Sound { commits, ends_ms, taken_ms, .. } = &mut self.sound;
        let from_ms = *taken_ms;
        let found_ms = ends_ms.take();
        let to_ms = found_ms.or_else(|| commits.pop_front().map(|cut| cut.at_ms)).unwrap_or(u64::MAX);
        self.sound.is_speech = false;
        self.sound.take_to(to_ms);
        let millis = self.sound.taken_ms.saturating_sub(from_ms);
        self.newer =
            self.newer.plus(Amount { text: ITEM_TOKENS, sound: millis.div_ceil(AUDIO_MS_PER_TOKEN) });
        found_ms.is_some()
    }

    pub(super) fn cleared(&mut self) {
        let to_ms = self.sound.clears.pop_front().map_or(self.sound.taken_ms, |cut| cut.at_ms);
        self.sound.take_to(to_ms);
    }

    /// How much sound may become an item without more being sent, in milliseconds.
    pub(super) fn pending_ms(&self, settings: &Settings, now: Duration) -> u64 {
        let pending = self.sound.sent_ms().saturating_sub(self.sound.taken_ms);
        if !settings.detects_speech || self.sound.is_speech {
            return pending;
        }
        pending.min(self.sound.lately_ms(now).saturating_add(REPORT_MS_MAX))
    }

    /// A response of the conversation has begun.
    pub(super) fn begun(&mut self) {
        self.older = std::mem::take(&mut self.newer);
        self.older_images.append(&mut self.newer_images);
    }

    /// A response that has read the conversation has ended, with as much output as its usage says or
    /// it may have. If it `tells` the size of the conversation, that is what its usage says.
    pub(super) fn ended(&mut self, usage: Option<&Quantities>, output_max: u64, tells: bool) {
        let before = self.known.plus(self.older);
        let read = match usage.map(read_by) {
            Some(read) if tells => {
                self.older_images.clear();
                read
            }
            Some(read) => Amount { text: read.text.max(before.text), sound: read.sound.max(before.sound) },
            None => before,
        };
        self.known = read.plus(written_by(usage, output_max));
        if !tells {
            self.older = Amount::default();
        }
    }

    /// A response that has read something else has ended, and added to the conversation.
    pub(super) fn written(&mut self, usage: Option<&Quantities>, output_max: u64) {
        self.newer = self.newer.plus(written_by(usage, output_max));
    }

    /// What the next response reads, its settings' text included.
    pub(super) fn read(&self, settings: &Settings, now: Duration) -> Amount {
        let pending = self.pending_ms(settings, now).div_ceil(AUDIO_MS_PER_TOKEN);
        let unsaid = Amount { text: settings.text_bytes(), sound: pending };
        self.known.plus(self.older).plus(self.newer).plus(unsaid)
    }
}

impl Sound {
    const fn sent_ms(&self) -> u64 {
        self.sent.div_ceil(48)
    }

    /// Remembers when sound is sent.
    fn mark(&mut self, now: Duration) {
        let is_due = self.marks.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= MARK_EVERY);
        if is_due {
            self.marks.push_back((now, self.sent));
        }
        let old = Duration::from_millis(REPORT_MS_MAX);
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= old) {
            self.marks.pop_front();
        }
    }

    /// How much was sent in the time by which a report may be late, or a little longer, in milliseconds.
    fn lately_ms(&self, now: Duration) -> u64 {
        let old = Duration::from_millis(REPORT_MS_MAX);
        let mut marks = self.marks.iter().rev();
        let (mark, before) = (self.marks.front(), marks.find(|(at, _)| now.saturating_sub(*at) >= old));
        let sent = before.or(mark).map_or(self.sent, |(_, sent)| *sent);
        (self.sent - sent).div_ceil(48)
    }

    /// Sound up to a time is no longer pending; a time that can't be is brought to one that can.
    fn take_to(&mut self, at_ms: u64) {
        self.taken_ms = at_ms.min(self.sent_ms()).max(self.taken_ms);
    }
}

/// Input by its kinds; images count as what costs most.
fn read_by(usage: &Quantities) -> Amount {
    let dear = [Class::AudioInput, Class::AudioCachedInput, Class::ImageInput, Class::ImageCachedInput];
    let sound = dear.iter().fold(0_u64, |sum, class| sum.saturating_add(usage[*class]));
    Amount { text: usage.input_tokens_total().saturating_sub(sound), sound }
}

fn written_by(usage: Option<&Quantities>, output_max: u64) -> Amount {
    let Some(usage) = usage else { return Amount { text: ITEM_TOKENS, sound: output_max } };
    let sound = usage[Class::AudioOutput];
    let text = usage.output_tokens_total().saturating_sub(sound);
    Amount { text: text.saturating_add(ITEM_TOKENS), sound }
}

fn pushed(unanswered: &mut VecDeque<Cut>, event_id: &str, is_named: bool, at_ms: u64) -> bool {
    let has_room = unanswered.len() < UNANSWERED_MAX;
    if has_room {
        unanswered.push_back(Cut { event_id: event_id.to_owned(), is_named, at_ms });
    }
    has_room
}

#[cfg(test)]
mod tests;
