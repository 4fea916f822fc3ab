//! What the next response of a session reads, at the most.
//!
//! A response reads the whole conversation. Its size is known from the usage of the last response;
//! whatever has come since is added. An item that was sent while a response began may be in that
//! one's usage or not, so it counts until the next response has begun as well.

use std::collections::VecDeque;

use crate::domain::demand::Image;
use crate::domain::{Class, Quantities};
use crate::protocol::openai::realtime::{Content, Settings, SoundFormat};
use crate::proxy::socket::turn::Amount;

/// Sound is 10 tokens a second, as in the bounds of other requests.
const MS_PER_TOKEN: u64 = 100;
/// Tokens around an item that is not the client's, whose text does not show them.
const ITEM_TOKENS: u64 = 32;
/// How late upstream may report that speech has begun, with the sound before it that belongs to it,
/// in milliseconds: earlier silence is in no item.
const REPORT_MS_MAX: u64 = 15_000;
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
    pub(super) images: Vec<Image>,
    sound: Sound,
}

/// The sound that is no item yet. Times are milliseconds of all sound that was sent.
#[derive(Debug, Default)]
struct Sound {
    /// What was sent, in 48ths of a millisecond: a byte of samples is one, a byte of a telephone's six.
    sent: u64,
    /// Up to where it is an item or was dropped.
    taken_ms: u64,
    /// Where the item ends that speech has made, while it is not committed.
    ends_ms: Option<u64>,
    is_speech: bool,
    /// Where the client has committed or cleared it.
    commits: VecDeque<u64>,
    clears: VecDeque<u64>,
}

impl Context {
    /// Adds what a message puts into the conversation.
    pub(super) fn add(&mut self, content: &Content, format: SoundFormat) {
        let sound = format.millis(content.sound_bytes).div_ceil(MS_PER_TOKEN);
        self.newer = self.newer.plus(Amount { text: content.text_bytes, sound });
        self.images.extend_from_slice(&content.images);
    }

    /// Adds sound that is no item yet.
    pub(super) fn append(&mut self, bytes: u64, format: SoundFormat) {
        let each = match format {
            SoundFormat::Samples => 1,
            SoundFormat::Telephone => 6,
        };
        self.sound.sent = self.sound.sent.saturating_add(bytes.saturating_mul(each));
    }

    /// The client has committed its sound; false if upstream has answered too few such messages.
    pub(super) fn commit(&mut self) -> bool {
        let at_ms = self.sound.sent_ms();
        pushed(&mut self.sound.commits, at_ms)
    }

    /// The client has dropped its sound.
    pub(super) fn clear(&mut self) -> bool {
        let at_ms = self.sound.sent_ms();
        pushed(&mut self.sound.clears, at_ms)
    }

    pub(super) fn speech_began(&mut self, at_ms: u64) {
        self.sound.take_to(at_ms);
        self.sound.is_speech = true;
    }

    pub(super) fn speech_ended(&mut self, at_ms: u64) {
        self.sound.ends_ms = Some(at_ms);
    }

    /// The sound has become an item; returns how long that is, in milliseconds.
    pub(super) fn committed(&mut self) -> u64 {
        let Sound { commits, ends_ms, taken_ms, .. } = &mut self.sound;
        let from_ms = *taken_ms;
        let to_ms = ends_ms.take().or_else(|| commits.pop_front()).unwrap_or(u64::MAX);
        self.sound.is_speech = false;
        self.sound.take_to(to_ms);
        let millis = self.sound.taken_ms.saturating_sub(from_ms);
        self.newer = self.newer.plus(Amount { text: ITEM_TOKENS, sound: millis.div_ceil(MS_PER_TOKEN) });
        millis
    }

    pub(super) fn cleared(&mut self) {
        let to_ms = self.sound.clears.pop_front().unwrap_or(self.sound.taken_ms);
        self.sound.take_to(to_ms);
    }

    /// How much sound may become an item without more being sent, in milliseconds.
    pub(super) fn pending_ms(&self, settings: &Settings) -> u64 {
        let pending = self.sound.sent_ms().saturating_sub(self.sound.taken_ms);
        if settings.detects_speech && !self.sound.is_speech { pending.min(REPORT_MS_MAX) } else { pending }
    }

    /// A response of the conversation has begun.
    pub(super) fn begun(&mut self) {
        self.older = std::mem::take(&mut self.newer);
    }

    /// A response that has read the conversation has ended: by its usage, or with as much output as
    /// it may have.
    pub(super) fn ended(&mut self, usage: Option<&Quantities>, output_max: u64) {
        let read = usage.map_or_else(|| self.known.plus(self.older), read_by);
        self.known = read.plus(written_by(usage, output_max));
        if usage.is_none() {
            self.older = Amount::default();
        }
    }

    /// A response that has read something else has ended, and added to the conversation.
    pub(super) fn written(&mut self, usage: Option<&Quantities>, output_max: u64) {
        self.newer = self.newer.plus(written_by(usage, output_max));
    }

    /// What the next response reads, its settings' text included.
    pub(super) fn read(&self, settings: &Settings) -> Amount {
        let pending = self.pending_ms(settings).div_ceil(MS_PER_TOKEN);
        let unsaid = Amount { text: settings.text_bytes(), sound: pending };
        self.known.plus(self.older).plus(self.newer).plus(unsaid)
    }
}

impl Sound {
    const fn sent_ms(&self) -> u64 {
        self.sent.div_ceil(48)
    }

    /// Sound up to a time is no longer pending; a time that can't be is brought to one that can.
    fn take_to(&mut self, at_ms: u64) {
        self.taken_ms = at_ms.min(self.sent_ms()).max(self.taken_ms);
    }
}

/// Input by its kinds. Images count by their sizes for as long as a session lasts.
fn read_by(usage: &Quantities) -> Amount {
    let sound = usage[Class::AudioInput].saturating_add(usage[Class::AudioCachedInput]);
    let images = usage[Class::ImageInput].saturating_add(usage[Class::ImageCachedInput]);
    Amount { text: usage.input_tokens_total().saturating_sub(sound).saturating_sub(images), sound }
}

fn written_by(usage: Option<&Quantities>, output_max: u64) -> Amount {
    let Some(usage) = usage else { return Amount { text: ITEM_TOKENS, sound: output_max } };
    let sound = usage[Class::AudioOutput];
    let text = usage.output_tokens_total().saturating_sub(sound);
    Amount { text: text.saturating_add(ITEM_TOKENS), sound }
}

fn pushed(unanswered: &mut VecDeque<u64>, at_ms: u64) -> bool {
    let has_room = unanswered.len() < UNANSWERED_MAX;
    if has_room {
        unanswered.push_back(at_ms);
    }
    has_room
}

#[cfg(test)]
mod tests;
