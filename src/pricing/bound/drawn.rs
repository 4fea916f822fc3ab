//! The most tokens of a second model that draws for a request: the image tool's, or the one
//! that writes an image as SVG.

use super::{BoundInputs, OUTPUT_MAX, page_tokens, text_bytes};
use crate::domain::{Class, Demand, Quantities};
use crate::pricing::image_tool;
use crate::pricing::sheet::Price;

/// Pictures that the image tool may read of a request and of kept context.
pub fn pictures(demand: &Demand, inputs: BoundInputs) -> u64 {
    sent(demand).saturating_add(inputs.context_pictures.unwrap_or(image_tool::UNSEEN_PICTURES))
}

/// Pictures in the request.
fn sent(demand: &Demand) -> u64 {
    u64::try_from(demand.media.images.len()).unwrap_or(u64::MAX)
}

/// The most that the image tool may use. Each call makes one image, and reads the
/// pictures of the request, one that it made before, and a text that the model wrote.
pub(super) fn tool_tokens(demand: &Demand, inputs: BoundInputs, output_max: u64) -> Quantities {
    let Some(tool) = &demand.tools.image else { return Quantities::default() };
    let calls = inputs.tool_calls;
    let pictures = pictures(demand, inputs).saturating_add(1);
    Quantities::from([
        (Class::Input, output_max),
        (Class::ImageInput, pictures.saturating_mul(image_tool::INPUT_TOKENS).saturating_mul(calls)),
        (Class::ImageOutput, image_tool::output_tokens(tool).saturating_mul(calls)),
    ])
}

/// The most that the model which writes SVG may use, by its price: it reads the prompt, the
/// pictures and the image that was made, and writes once.
pub(super) fn svg_tokens(price: Option<&Price>, demand: &Demand) -> Quantities {
    if demand.svg_model.is_none() {
        return Quantities::default();
    }
    let read = price.map_or(0, page_tokens).saturating_mul(sent(demand).saturating_add(1));
    let written = price.and_then(|price| price.max_output_tokens).unwrap_or(OUTPUT_MAX);
    [(Class::Input, text_bytes(demand).saturating_add(read)), (Class::Output, written)].into()
}
