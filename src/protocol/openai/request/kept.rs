//! The items of a request that upstream keeps, and how it reads them later.

use std::fmt::Write as _;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::content::{Content, Found};
use super::fields::Body;
use super::tools::Offered;
use super::{Invalid, measure};
use crate::domain::KeptContext;
use crate::protocol::openai::json::Object;

/// The longest value of an option that stands in a rendering as it is, in bytes.
const OPTION_BYTES_MAX: usize = 32;

/// Reads what a free request puts into a conversation.
///
/// Text is at most as many tokens as it has bytes. Content that differs between
/// models, or is stored elsewhere, has an unknown size. Containers are not included:
/// those of named objects belong to these objects.
///
/// ```
/// use spendguard::protocol::openai::request;
/// let kept = request::kept_items(br#"{"items":[{"role":"user","content":"hello"}]}"#).expect("it is text");
/// assert_eq!((kept.tokens, kept.pictures), (Some(45), Some(0)));
/// ```
pub fn kept_items(body: &[u8]) -> Result<KeptContext, Invalid> {
    let text = super::text(body)?;
    let Object(Items { items }) =
        serde_json::from_str::<Object<Items<'_>>>(text).map_err(|error| Invalid::body(&error.to_string()))?;
    let found = items.into_inner();
    refuse_tools(&found, true, "items")?;
    let media = measure::media(&found, text);
    let is_here = !found.server_context && found.references.is_empty() && media.opaque == 0;
    let is_text = is_here && media.is_empty();
    let bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let pictures = is_here.then(|| u64::try_from(media.images.len()).unwrap_or(u64::MAX));
    let tokens = is_text.then_some(bytes);
    Ok(KeptContext { tokens, pictures, ..KeptContext::nothing() })
}

/// Refuses items that bring hosted tools along where upstream keeps them: later
/// requests would use them without naming them.
pub(super) fn refuse_tools(found: &Found<'_>, is_kept: bool, param: &'static str) -> Result<(), Invalid> {
    if !is_kept || !found.offer.peek().is_some_and(Offered::is_hosted) {
        return Ok(());
    }
    let message = format!(
        "An item of `{param}` brings tools that OpenAI runs, and OpenAI would keep them for later requests. Send \
         tools with the request that uses them."
    );
    Err(Invalid::not_allowed(param, message))
}

/// The options that decide how much of kept context is read: which turns' reasoning,
/// and how pictures are made smaller.
pub(super) fn rendering(fields: &Body<'_>) -> String {
    let mut text = String::new();
    for (name, option) in [("reasoning", fields.reasoning.0.context), ("image", fields.image)] {
        if let Some(value) = option.value() {
            let gap = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{gap}{name}={}", shortened(value));
        }
    }
    text
}

/// A value, or the digest of a long one.
fn shortened(value: &str) -> String {
    if value.len() <= OPTION_BYTES_MAX {
        return value.to_owned();
    }
    let digest: [u8; 32] = Sha256::digest(value).into();
    digest.iter().take(16).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The body of a request that makes a conversation or adds to one.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Items<'a> {
    #[serde(borrow)]
    items: Content<'a>,
}

#[cfg(test)]
mod tests;
