//! How many input tokens an image takes.
//!
//! Models cut images into patches of 32 pixels or tiles of 512 (OpenAI's guide
//! on images and vision). The result is an upper bound: fractions of pixels that
//! a decoder drops when it makes an image smaller are counted.

use crate::domain::demand::{Detail, Image};

/// The rule of a model; the dearer counts where it has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRule {
    /// By patches of 32 by 32 pixels.
    pub patches: Option<PatchRule>,
    /// By tiles of 512 by 512 pixels.
    pub tiles: Option<TileRule>,
}

/// Patches of 32 by 32 pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchRule {
    /// Tokens per thousand patches.
    pub thousandths: u64,
    /// Patches that an image is made smaller to fit into; none: any number.
    pub budget: Option<u64>,
    /// The same for `high` detail, where it is less.
    pub budget_high: Option<u64>,
}

/// Tiles of 512 by 512 pixels, after an image was made to fit 2,048 by 2,048 and
/// its shorter side 768.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileRule {
    /// Tokens of every image; all there are at `low` detail.
    pub base_tokens: u64,
    /// Tokens of a tile.
    pub tile_tokens: u64,
}

/// The most tiles: four by two.
const TILES_MAX: u64 = 8;

impl ImageRule {
    /// The most that any published rule takes.
    pub const DEAREST: Self = Self {
        patches: Some(PatchRule { thousandths: 2_460, budget: None, budget_high: None }),
        tiles: Some(TileRule { base_tokens: 85, tile_tokens: 170 }),
    };

    /// The most tokens of an image; `None` if its size is unknown and nothing bounds it.
    pub fn tokens(&self, image: Image) -> Option<u64> {
        let Some((width, height)) = image.size else { return self.tokens_max(image.detail) };
        let patches = self.patches.map(|rule| rule.tokens(width, height, image.detail));
        let tiles = self.tiles.map(|rule| rule.tokens(width, height, image.detail));
        Some(patches.max(tiles).unwrap_or(0))
    }

    fn tokens_max(&self, detail: Detail) -> Option<u64> {
        let patches = match self.patches {
            None => 0,
            Some(rule) => rule.cost(rule.budget(detail)?),
        };
        Some(self.tiles.map_or(0, |rule| rule.tokens_max(detail)).max(patches))
    }

    /// The dearer of two rules in every case.
    #[must_use]
    pub fn dearer(&self, other: &Self) -> Self {
        Self {
            patches: dearer(self.patches, other.patches, PatchRule::dearer),
            tiles: dearer(self.tiles, other.tiles, TileRule::dearer),
        }
    }
}

fn dearer<T>(one: Option<T>, other: Option<T>, of: fn(T, T) -> T) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(of(one, other)),
        (one, other) => one.or(other),
    }
}

impl PatchRule {
    fn tokens(self, width: u32, height: u32, detail: Detail) -> u64 {
        let patches = u64::from(width.div_ceil(32)) * u64::from(height.div_ceil(32));
        self.cost(self.budget(detail).map_or(patches, |budget| budget.min(patches)))
    }

    /// The saving of `low` detail is not documented, so it is taken as none.
    fn budget(self, detail: Detail) -> Option<u64> {
        if detail == Detail::High { self.budget_high.or(self.budget) } else { self.budget }
    }

    fn cost(self, patches: u64) -> u64 {
        let tokens = (u128::from(patches) * u128::from(self.thousandths)).div_ceil(1_000);
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    fn dearer(self, other: Self) -> Self {
        // No budget counts as the largest one.
        let larger = |one: Option<u64>, other: Option<u64>| Some(one?.max(other?));
        Self {
            thousandths: self.thousandths.max(other.thousandths),
            budget: larger(self.budget, other.budget),
            budget_high: larger(self.budget_high.or(self.budget), other.budget_high.or(other.budget)),
        }
    }
}

impl TileRule {
    fn tokens(self, width: u32, height: u32, detail: Detail) -> u64 {
        if detail == Detail::Low {
            return self.base_tokens;
        }
        let (short, long) = (u64::from(width.min(height)), u64::from(width.max(height)));
        let tiles = |pixels: u64| pixels.div_ceil(512);
        let is_short_too_long = if long > 2_048 { short * 2_048 > 768 * long } else { short > 768 };
        let count = if is_short_too_long {
            // The shorter side is made 768 pixels long.
            tiles(768) * tiles((long * 768).div_ceil(short))
        } else if long > 2_048 {
            tiles(2_048) * tiles((short * 2_048).div_ceil(long))
        } else {
            tiles(short) * tiles(long)
        };
        self.base_tokens + self.tile_tokens * count.clamp(1, TILES_MAX)
    }

    fn tokens_max(self, detail: Detail) -> u64 {
        let tiles = if detail == Detail::Low { 0 } else { TILES_MAX };
        self.base_tokens + self.tile_tokens * tiles
    }

    fn dearer(self, other: Self) -> Self {
        Self {
            base_tokens: self.base_tokens.max(other.base_tokens),
            tile_tokens: self.tile_tokens.max(other.tile_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TILES: ImageRule =
        ImageRule { patches: None, tiles: Some(TileRule { base_tokens: 85, tile_tokens: 170 }) };
    const PATCHES: ImageRule = ImageRule {
        patches: Some(PatchRule { thousandths: 1_200, budget: Some(10_000), budget_high: Some(2_500) }),
        tiles: None,
    };

    fn tokens(rule: &ImageRule, width: u32, height: u32, detail: Detail) -> u64 {
        rule.tokens(Image { size: Some((width, height)), detail }).unwrap()
    }

    #[test]
    fn tiles_are_counted_as_the_guide_does() {
        for (width, height, tiles) in [
            (1, 1, 1),
            (512, 512, 1),
            (513, 512, 2),
            (768, 768, 4),
            (1_024, 1_024, 4),
            (2_048, 4_096, 6),
            (4_096, 8_192, 6),
            (2_048, 768, 8),
            (3_000, 500, 4),
            (100_000, 1, 4),
            (u32::MAX, u32::MAX, 4),
        ] {
            for (width, height) in [(width, height), (height, width)] {
                assert_eq!(
                    tokens(&TILES, width, height, Detail::High),
                    85 + 170 * tiles,
                    "{width} x {height}"
                );
                assert_eq!(tokens(&TILES, width, height, Detail::Low), 85);
            }
        }
        assert_eq!(TILES.tokens_max(Detail::Auto), Some(1_445));
    }

    #[test]
    fn patches_are_counted_up_to_their_budget() {
        assert_eq!(tokens(&PATCHES, 1, 1, Detail::Auto), 2);
        assert_eq!(tokens(&PATCHES, 1_024, 1_024, Detail::Auto), 1_229, "1,024 patches");
        assert_eq!(tokens(&PATCHES, 16_000, 16_000, Detail::Auto), 12_000);
        assert_eq!(tokens(&PATCHES, 16_000, 16_000, Detail::High), 3_000);
        let rule = PatchRule { thousandths: 1_200, budget: None, budget_high: None };
        let unbounded = ImageRule { patches: Some(rule), tiles: None };
        assert_eq!(tokens(&unbounded, 16_000, 16_000, Detail::Auto), 300_000);
        assert_eq!(unbounded.tokens_max(Detail::Auto), None);
        let largest = tokens(&unbounded, u32::MAX, u32::MAX, Detail::Auto);
        assert_eq!(largest, ((1_u64 << 54) * 12).div_ceil(10), "no overflow");
    }

    proptest! {
        #[test]
        fn no_image_takes_more_than_the_most(width: u32, height: u32, low: bool) {
            let detail = if low { Detail::Low } else { Detail::Auto };
            for rule in [TILES, PATCHES] {
                prop_assert!(Some(tokens(&rule, width, height, detail)) <= rule.tokens_max(detail));
            }
        }

        #[test]
        fn the_dearer_rule_is_dearer_for_every_image(width in 1_u32..20_000, height in 1_u32..20_000, high: bool) {
            let detail = if high { Detail::High } else { Detail::Auto };
            let mini = ImageRule {
                patches: Some(PatchRule { thousandths: 1_620, budget: Some(1_536), budget_high: None }), tiles: None,
            };
            let rules = [TILES, PATCHES, mini, ImageRule::DEAREST];
            for one in rules {
                for other in rules {
                    let dearer = tokens(&one.dearer(&other), width, height, detail);
                    prop_assert!(dearer >= tokens(&one, width, height, detail));
                    prop_assert!(dearer >= tokens(&other, width, height, detail));
                }
            }
        }
    }
}
