//! What is held and billed by itself in a session: a response, or sound that is written down or
//! translated.

use std::time::Duration;

use bytes::Bytes;

use crate::domain::demand::{Image, Media, Transcript};
use crate::domain::{Class, Demand, Quantities};
use crate::guard::Ending;
use crate::pricing::bound::AUDIO_MS_PER_TOKEN;
use crate::protocol::openai::operation::Operation;
use crate::protocol::openai::realtime::{Settings, Transcription};
use crate::protocol::openai::request::Request;
use crate::protocol::openai::usage::Outcome;
use crate::proxy::bill::Exchange;
use crate::proxy::exchange::MeteredExchange;
use crate::proxy::in_flight::InFlight;
use crate::proxy::prepare::{AdmittedRequest, Parsed};
use crate::proxy::socket::session::Session;
use crate::proxy::{Content, Failed};

/// The largest output bound that OpenAI takes in a session (`max_output_tokens` in its SDKs).
const OUTPUT_BOUND_MAX: u64 = 4_096;

/// What a response reads, at the most: tokens, or bytes of text, which are no fewer; and tokens of sound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) text: u64,
    pub(super) sound: u64,
}

impl Amount {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self { text: self.text.saturating_add(other.text), sound: self.sound.saturating_add(other.sound) }
    }

    /// Whether it is no less than another.
    pub(super) const fn covers(self, other: Self) -> bool {
        self.text >= other.text && self.sound >= other.sound
    }
}

/// When what a message needs was held: of two things, the later one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Held {
    /// Before it came, or it needs nothing.
    Before,
    /// When it came: it has waited for that.
    Now,
}

/// A hold that a session has, and what it is enough for.
pub(super) struct Turn {
    exchange: Box<MeteredExchange>,
    in_flight: InFlight,
    first_output: Option<Duration>,
    /// What may be read with it.
    covers: Amount,
    /// The sound that it is for, in milliseconds, where it is for sound alone.
    pub(super) sound_ms: u64,
    /// The model, images and settings that it is for.
    pub(super) model: String,
    images: usize,
    speaks: bool,
    /// The output bound that was asked for, and the one that it was admitted with; `None` is the
    /// model's maximum.
    wanted: Option<u64>,
    pub(super) output_max: Option<u64>,
}

/// What a response may read and write.
pub(super) struct Asked<'a> {
    pub(super) settings: &'a Settings,
    pub(super) read: Amount,
    pub(super) images: &'a [Image],
    pub(super) wanted: Option<u64>,
    pub(super) speaks: bool,
}

impl Session {
    /// Holds what a response may cost.
    pub(super) async fn hold_response(&self, asked: Asked<'_>) -> Result<Turn, Failed> {
        let Asked { settings, read, images, wanted, speaks } = asked;
        let model = settings.model.clone().unwrap_or_default();
        let demand = Demand {
            model: model.clone(),
            stream: true,
            body_bytes: read.text,
            media: Media {
                audio_ms: read.sound.saturating_mul(AUDIO_MS_PER_TOKEN),
                images: images.to_vec(),
                ..Media::default()
            },
            choices: 1,
            truncates: true,
            output_max: wanted.or(Some(OUTPUT_BOUND_MAX)),
            audio_output: speaks,
            ..Demand::default()
        };
        let (admitted, in_flight) = self.hold(self.operation, demand).await?;
        let bound = admitted.output_max.or(wanted).unwrap_or(OUTPUT_BOUND_MAX);
        let output_max = (admitted.is_capped || wanted.is_some()).then_some(bound);
        let (exchange, images) = (admitted.exchange, images.len());
        Ok(Turn {
            exchange,
            in_flight,
            first_output: None,
            covers: read,
            sound_ms: 0,
            model,
            images,
            speaks,
            wanted,
            output_max,
        })
    }

    /// Holds what it may cost to write down, or to translate, so much sound.
    pub(super) async fn hold_sound(
        &self,
        operation: &'static Operation,
        of: &Transcription,
        millis: u64,
    ) -> Result<Turn, Failed> {
        let demand = Demand {
            model: of.model.clone(),
            stream: true,
            body_bytes: of.text_bytes,
            media: Media { audio_ms: millis, ..Media::default() },
            choices: 1,
            transcript: Some(Transcript { is_measured: true, in_chunks: false }),
            units: [(Class::AudioSeconds, millis.div_ceil(1_000))].into(),
            ..Demand::default()
        };
        let (admitted, in_flight) = self.hold(operation, demand).await?;
        Ok(Turn {
            exchange: admitted.exchange,
            in_flight,
            first_output: None,
            covers: Amount::default(),
            sound_ms: millis,
            model: of.model.clone(),
            images: 0,
            speaks: false,
            wanted: None,
            output_max: None,
        })
    }

    /// Admits a demand by the caller and the rules of now.
    async fn hold(
        &self,
        operation: &'static Operation,
        demand: Demand,
    ) -> Result<(AdmittedRequest, InFlight), Failed> {
        let shard = &self.shard;
        let rules = shard.rules.load_full();
        let (caller, mut in_flight) = self.called(&rules, operation).await?;
        let parsed =
            Parsed { request: Request::unedited(demand), content: Content::Json, body: Bytes::new() };
        let prepared = shard.prepare_parsed(&rules, operation, &self.head, parsed, &caller, &mut in_flight);
        match Box::pin(prepared).await {
            Ok(admitted) => {
                in_flight.admitted(admitted.exchange.reservation.hold());
                Ok((admitted, in_flight))
            }
            Err(refusal) => Err((refusal, in_flight)),
        }
    }
}

impl Turn {
    /// Upstream may begin it: from now on silence is charged.
    pub(super) fn begin(&mut self) {
        self.exchange.reservation.mark_sent();
    }

    /// Notes when upstream has begun to answer.
    pub(super) fn answers(&mut self) {
        if self.first_output.is_none() {
            self.first_output = Some(self.exchange.reservation.age());
        }
    }

    /// Whether a response may be asked for with it that reads so much, with so many images, within
    /// this output bound.
    pub(super) fn serves(&self, read: Amount, images: usize, wanted: Option<u64>, speaks: bool) -> bool {
        self.covers.covers(read) && self.images >= images && self.wanted == wanted && (self.speaks || !speaks)
    }

    /// The most output that it may have.
    pub(super) fn output_tokens(&self) -> u64 {
        self.exchange.bill.model_tokens.output()
    }

    /// Ends it by its answer. Returns the usage that this reports, and whether the answer is one that
    /// has read all that it was to read.
    pub(super) fn end(self, answer: &[u8], disconnected: bool) -> (Option<Quantities>, bool) {
        let Self { exchange, mut in_flight, first_output, .. } = self;
        let MeteredExchange { reservation, bill, .. } = *exchange;
        let answer = bill.operation.answer(answer);
        let of = Exchange { status: 200, ttft: first_output, disconnected, ..Exchange::default() };
        let label = answer.outcome.label(disconnected);
        let settled = bill.end(reservation, &answer, of, || bill.model_tokens.output());
        in_flight.status = 200;
        in_flight.settled(&settled);
        in_flight.ended(label);
        let is_made = matches!(answer.outcome, Outcome::Completed | Outcome::Stopped);
        let has_read = answer.usage.is_some_and(|usage| usage.input_tokens_total() > 0);
        (answer.usage, is_made && has_read)
    }

    /// Ends it by the length of its sound, which upstream does not report.
    pub(super) fn end_counted(mut self, millis: u64) {
        self.exchange.bill.units = [(Class::AudioSeconds, millis.div_ceil(1_000))].into();
        self.end(br#"{"text":""}"#, false);
    }

    /// Upstream has refused it.
    pub(super) fn refused(self) {
        let Self { exchange, mut in_flight, .. } = self;
        let settled = exchange.reservation.release(Exchange { status: 400, ..Exchange::default() }.ending());
        in_flight.status = 400;
        in_flight.settled(&settled);
        in_flight.ended("upstream_error");
    }

    /// Nothing was asked for with it.
    pub(super) fn unused(self) {
        let Self { exchange, in_flight, .. } = self;
        drop(exchange);
        in_flight.uncounted();
    }

    /// Upstream may have begun it, and it was not seen to end: its hold is charged.
    pub(super) fn lost(self, disconnected: bool) {
        let Self { exchange, mut in_flight, first_output: ttft, .. } = self;
        let of = Exchange { status: 200, ttft, disconnected, ..Exchange::default() };
        let tier = exchange.reservation.hold().tier;
        let settled = exchange.reservation.assume(Ending { tier, ..of.ending() });
        in_flight.status = 200;
        in_flight.settled(&settled);
        in_flight.ended(if disconnected { "disconnected" } else { "upstream_error" });
    }
}
