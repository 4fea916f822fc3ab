//! What lines of one model have together: their tools, and the price of the model for images.

use std::sync::Arc;

use crate::domain::demand::{ContainerDemand, ImageDemand, ToolDemand, WebSearch};
use crate::domain::model::ANY_IMAGE;
use crate::domain::usage::ContainerMemory;
use crate::domain::{Demand, KeptContainers, KeptSize};
use crate::pricing::image_tool;
use crate::pricing::sheet::Price;
use crate::proxy::batches::pricing::Pricing;

/// The price of a model for images.
pub(super) fn image_price(pricing: &Pricing, model: &str) -> Option<Arc<Price>> {
    if model == ANY_IMAGE {
        return pricing.sheet().dearest_image_model(pricing.at_s());
    }
    pricing.price_of(model, pricing.at_s())
}

/// What upstream adds to a line from its own store: nothing where the line names no context,
/// and otherwise a context of unknown size, since other lines may add to it meanwhile.
pub(super) fn kept(demand: &Demand) -> KeptSize {
    let names_context = demand.server_context || demand.references.iter().any(|of| of.kind.is_context());
    let size = (!names_context).then_some(0);
    let containers = if names_context { KeptContainers::default() } else { KeptContainers::NONE };
    KeptSize { tokens: size, pictures: size, containers }
}

/// Adds the tools of a line to those that any line may have run.
pub(super) fn join(tools: &mut ToolDemand, of: &ToolDemand) {
    // Of two kinds of search, the one that is not named costs as the dearer.
    tools.web_search = match (tools.web_search, of.web_search) {
        (known, None) => known,
        (None, found) => found,
        (known, found) if known == found => known,
        (Some(_), Some(_)) => Some(WebSearch::Preview),
    };
    if of.containers.len() > tools.containers.len() {
        tools.containers.resize(of.containers.len(), ContainerDemand::Made(ContainerMemory::default()));
    }
    for (known, found) in tools.containers.iter_mut().zip(&of.containers) {
        if found.memory_max() > known.memory_max() {
            *known = found.clone();
        }
    }
    tools.context_container = tools.context_container.max(of.context_container);
    let drawn = |image: &Option<ImageDemand>| image.as_ref().map_or(0, image_tool::output_tokens);
    if drawn(&of.image) > drawn(&tools.image) {
        tools.image.clone_from(&of.image);
    }
    tools.loops |= of.loops;
}
