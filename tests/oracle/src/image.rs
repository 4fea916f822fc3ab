//! Tokens of pictures, by the rules of each family of models.

use crate::prices::Model;

/// How a family counts a picture.
enum Rule {
    /// Patches of 32 × 32 pixels, up to a number, times a multiplier in hundredths.
    Patches { patches_max: Option<u64>, hundredths: u64 },
    /// Tiles of 512 × 512 pixels after scaling: base and tokens of a tile.
    Tiles { base: u64, tile: u64 },
}

fn rule(model: &Model, detail: &str) -> Rule {
    let name = model.name.trim_start_matches("ft:");
    let patches = |patches_max, hundredths| Rule::Patches { patches_max, hundredths };
    if name.starts_with("gpt-4o-mini") {
        Rule::Tiles { base: 2_833, tile: 5_667 }
    } else if name.starts_with("gpt-5.4-nano") {
        // 1,536 as published, 2,500 as users have measured it.
        patches(Some(2_500), 246)
    } else if name.starts_with("gpt-5.4-mini") {
        patches(Some(2_500), 162)
    } else if name.starts_with("gpt-5.2") || name.starts_with("gpt-5.3") {
        patches(Some(1_536), 120)
    } else if name.contains("-nano") {
        patches(Some(1_536), 246)
    } else if name.contains("-mini") && !name.starts_with("o1") && !name.starts_with("o3") {
        patches(Some(1_536), 162)
    } else if name.starts_with("gpt-5.4") {
        patches(Some(if detail == "original" { 10_000 } else { 2_500 }), 120)
    } else if name.starts_with("gpt-5.5") {
        patches(Some(10_000), 120)
    } else if name.starts_with("gpt-5.6") || name.starts_with("gpt-6") {
        patches(if detail == "high" { Some(10_000) } else { None }, 120)
    } else {
        Rule::Tiles { base: 85, tile: 170 }
    }
}

/// Tokens of a picture of that size and detail.
pub fn tokens(model: &Model, (width, height): (u64, u64), detail: &str) -> u64 {
    match rule(model, detail) {
        Rule::Patches { patches_max, hundredths } => {
            let patches_max = if detail == "low" { Some(256) } else { patches_max };
            let patches = width.div_ceil(32).saturating_mul(height.div_ceil(32));
            let patches = patches_max.map_or(patches, |most| patches.min(most));
            patches.saturating_mul(hundredths).div_ceil(100)
        }
        Rule::Tiles { base, .. } if detail == "low" => base,
        Rule::Tiles { base, tile } => base + tile * tiles(width, height),
    }
}

/// The most tokens of a picture of any size; none if nothing bounds it.
pub fn most(model: &Model, detail: &str) -> Option<u64> {
    let is_bounded = match rule(model, detail) {
        Rule::Patches { patches_max, .. } => detail == "low" || patches_max.is_some(),
        Rule::Tiles { .. } => true,
    };
    // Eight tiles, or more patches than any budget has.
    is_bounded.then(|| tokens(model, (16_384, 6_144), detail))
}

/// Tiles of a picture that is fitted into 2,048 × 2,048 and then to a short side of 768.
fn tiles(width: u64, height: u64) -> u64 {
    let (mut long, mut short) = (width.max(height).max(1), width.min(height).max(1));
    if long > 2_048 {
        (short, long) = ((short * 2_048).div_ceil(long), 2_048);
    }
    if short > 768 {
        (long, short) = ((long * 768).div_ceil(short), 768);
    }
    long.div_ceil(512) * short.div_ceil(512)
}

/// Tokens that a generated picture costs as output, by size and quality.
pub fn generated(size: &str, quality: &str) -> u64 {
    let largest = match quality {
        "low" => 408,
        "medium" => 1_584,
        _ => 6_240,
    };
    let pixels = size
        .split_once('x')
        .and_then(|(width, height)| width.parse::<u64>().ok()?.checked_mul(height.parse().ok()?));
    // The published figures end at 1,536 × 1,024; beyond they grow with the pixels.
    let beyond = pixels.map_or(0, |pixels| (largest * pixels).div_ceil(1_536 * 1_024));
    largest.max(beyond)
}

/// Tokens that a picture of the context costs each time a picture is made from it: 65, 129 for each
/// of up to 4 tiles, and 6,240 at high fidelity.
pub const REFERENCE_TOKENS: u64 = 65 + 4 * 129 + 6_240;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::find;

    #[test]
    fn pictures_cost_what_is_published() {
        let of = |name, size, detail| tokens(find(name).expect("a model"), size, detail);
        assert_eq!(of("gpt-6.1-sol", (4_032, 3_024), "auto"), 14_364, "a photo of 12 megapixels");
        assert_eq!(of("gpt-6.1-sol", (16_000, 16_000), "auto"), 300_000);
        assert_eq!(of("gpt-4o", (2_048, 768), "high"), 1_445, "the most that tiles come to");
        assert_eq!(of("gpt-4o", (1_024, 1_024), "high"), 765);
        assert_eq!(of("gpt-4o", (1_024, 1_024), "low"), 85);
        assert_eq!(of("gpt-4o-mini", (1_024, 1_024), "auto"), 25_501);
        assert_eq!(of("gpt-5-mini", (16_000, 16_000), "auto"), 2_489);
        assert_eq!(of("gpt-5.5", (16_000, 16_000), "auto"), 12_000);
        assert_eq!(generated("auto", "auto"), 6_240);
        assert_eq!(generated("3072x2048", "high"), 24_960);
    }
}
