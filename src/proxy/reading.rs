//! The context that upstream keeps and a request reads.
//!
//! A measured size applies to a request only if the same model reads it under the
//! same options (`domain::kept`). Otherwise the size is unknown: the hold is for
//! the model's window, or for upstream's count.

use std::sync::Arc;

use crate::domain::kept::sum;
use crate::domain::{Demand, KeptContainers, KeptContext, KeptSize, ObjectKind, Rendering};
use crate::guard::objects::{HeldFor, Objects};
use crate::pricing::bound::{BoundInputs, fits_window};
use crate::pricing::sheet::{Price, Sheet};
use crate::protocol::openai::usage::Answer;

/// The kept context that a request reads, and that it leaves.
#[derive(Clone, Debug)]
pub struct Reading {
    sheet: Arc<Sheet>,
    at_s: i64,
    model: Arc<str>,
    options: String,
    rendering: Rendering,
    /// All that it names, together.
    size: KeptSize,
    /// Pictures of what it names, the conversation aside.
    named_pictures: Option<u64>,
    /// Pictures of the body.
    pictures: u64,
    /// The known state of the conversation that it adds to, and the number of the
    /// conversation's last change at that time.
    conversation: Option<(Option<u64>, u64)>,
    /// Whether all that it names and sends is read, so that its usage tells the size.
    is_whole: bool,
}

impl Reading {
    /// Finds the context that a request reads, by the price of its model.
    pub fn of(
        objects: &Objects,
        sheet: &Arc<Sheet>,
        (demand, price): (&Demand, Option<&Price>),
        at_s: i64,
    ) -> Self {
        let model = price.map_or_else(|| demand.model.as_str().into(), |price| Arc::clone(&price.id));
        let rendering = Rendering::of(&model, &demand.rendering);
        let (mut named, mut conversation) = (KeptContext::nothing(), None);
        let mut named_pictures = Some(0_u64);
        for of in demand.references.iter().filter(|of| of.kind.is_context()) {
            // Before the size, so that a change in between is seen.
            let change = (of.kind == ObjectKind::Conversation).then(|| objects.change_of(&of.id));
            let context = objects.lookup(of.kind, &of.id).map(|known| known.context).unwrap_or_default();
            match change {
                Some(change) => conversation = Some((context.under(&rendering).tokens, change)),
                None => named_pictures = sum(named_pictures, context.pictures),
            }
            named = named.plus(&context);
        }
        let mut size = named.under(&rendering);
        size.tokens = size.tokens.filter(|_| !demand.server_context);
        size.pictures = size.pictures.filter(|_| !demand.stored_prompt);
        Self {
            sheet: Arc::clone(sheet),
            at_s,
            options: demand.rendering.clone(),
            rendering,
            size,
            named_pictures: named_pictures.filter(|_| !demand.stored_prompt),
            pictures: u64::try_from(demand.media.images.len()).unwrap_or(u64::MAX),
            conversation,
            // A prompt that names no model for the request may be read by any.
            is_whole: !model.is_empty(),
            model,
        }
    }

    /// The size of all that it names.
    pub const fn size(&self) -> KeptSize {
        self.size
    }

    /// The same after its hold is known.
    #[must_use]
    pub fn held(mut self, price: &Price, demand: &Demand, inputs: BoundInputs) -> (Self, HeldFor) {
        self.is_whole &= !demand.truncates || fits_window(price, demand, inputs);
        let held_for = match self.conversation {
            Some((_, change)) if inputs.prompt_tokens.is_some() => HeldFor::Counted(change),
            Some((Some(tokens), _)) => HeldFor::Tokens(tokens, self.rendering.clone()),
            Some((None, _)) | None => HeldFor::AnySize,
        };
        (self, held_for)
    }

    /// The most that it adds to its conversation, if it is held at these tokens,
    /// may draw these pictures, and may run in these containers.
    pub fn added_max(&self, tokens: u64, drawn: u64, containers: KeptContainers) -> KeptContext {
        KeptContext {
            tokens: Some(tokens).filter(|_| self.is_whole),
            rendering: self.rendering.clone(),
            pictures: sum(self.named_pictures, Some(self.pictures.saturating_add(drawn))),
            containers,
        }
    }

    /// The most that its answer stands for, if it adds no more than this, with so many pictures drawn.
    pub fn most_of_all(&self, added: KeptContext, drawn: u64) -> KeptContext {
        let pictures = sum(self.size.pictures, Some(self.pictures.saturating_add(drawn)));
        KeptContext { pictures, ..added }
    }

    /// So many tokens of its answer's usage, by the model that served it, without pictures
    /// and containers.
    pub fn measured(&self, answer: &Answer, tokens: Option<u64>) -> KeptContext {
        let served = answer.model.as_deref().and_then(|model| self.sheet.find(model, self.at_s));
        let rendering = match served {
            Some(price) if price.id != self.model => Rendering::of(&price.id, &self.options),
            Some(_) | None => self.rendering.clone(),
        };
        let tokens = tokens.filter(|_| self.is_whole);
        KeptContext { tokens, rendering, ..KeptContext::nothing() }
    }

    /// The pictures that it adds to what it read, those drawn for its answer included.
    pub fn pictures_added(&self, answer: &Answer) -> Option<u64> {
        sum(self.named_pictures, Some(self.pictures.saturating_add(answer.image_calls)))
    }

    /// All pictures that its answer stands for.
    pub fn pictures_of_all(&self, answer: &Answer) -> Option<u64> {
        sum(self.size.pictures, Some(self.pictures.saturating_add(answer.image_calls)))
    }
}
