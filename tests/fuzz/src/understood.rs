//! What the guard understands of a body, as a line of JSON for
//! `differential.py`, with the bytes that would be forwarded.

use std::fmt::Write as _;

use serde_json::{Value, json};
use spendguard::domain::demand::Tier;

use crate::bound::operation;
use crate::request::{Case, demand_after};

/// The variable that makes the target `request` print its lines.
pub const VARIABLE: &str = "SPENDGUARD_UNDERSTOOD";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The demand as the guard would have it be, and the bytes that it sends.
pub fn understood(case: &Case<'_>) -> Value {
    let endpoint = case.endpoint.path();
    let request = match operation(case.endpoint).read(case.body) {
        Ok(request) => request,
        Err(why) => {
            return json!({"accepted": false, "endpoint": endpoint, "why": why.message});
        }
    };
    let forwarded = request.rewrite(case.body, &case.edit).unwrap_or_else(|| case.body.to_vec());
    let demand = demand_after(case, &request.demand, forwarded.len());
    let media = &demand.media;
    json!({
        "endpoint": endpoint,
        "accepted": true,
        "model": demand.model,
        "stream": demand.stream,
        "usage_asked": demand.usage_asked,
        "output_max": demand.output_max,
        "choices": demand.choices,
        "service_tier": demand.tier.map(Tier::name),
        "end_user": demand.end_user,
        "tool_calls_max": demand.tools.calls_max,
        "loops": demand.tools.loops,
        "server_context": demand.server_context || demand.stored_prompt || !demand.references.is_empty(),
        "audio_output": demand.audio_output,
        "echo": demand.echo,
        "cache_12h": demand.cache_12h,
        "media": media.images.len(),
        "body_bytes": demand.body_bytes,
        "forwarded": hex(&forwarded),
    })
}
