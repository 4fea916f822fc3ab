//! Choices, made by a seed or by the bytes of a fuzzer.

/// A stream of numbers: from a seed without end, or from bytes, and zero after their end.
#[derive(Clone, Debug)]
pub struct Chance {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Seed(u64),
    Bytes(Vec<u8>, usize),
}

impl Chance {
    /// Of a seed, by `SplitMix64` (Steele, Lea and Flood, 2014).
    pub const fn of_seed(seed: u64) -> Self {
        Self { source: Source::Seed(seed) }
    }

    /// Of bytes: a choice of up to 256 takes one byte, so that small changes of an input stay small.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self { source: Source::Bytes(bytes.to_vec(), 0) }
    }

    fn below(&mut self, count: u64) -> u64 {
        let number = match &mut self.source {
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mut z = *state;
                z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                z ^ (z >> 31)
            }
            Source::Bytes(bytes, at) => {
                let width =
                    usize::try_from((64 - (count - 1).leading_zeros()).div_ceil(8)).expect("few bytes");
                let taken = bytes.iter().skip(*at).take(width);
                let number = taken.fold(0, |number, byte| number << 8 | u64::from(*byte));
                *at += width;
                number
            }
        };
        number % count
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below((high - low).saturating_add(1))
    }

    /// An index below `count`.
    pub fn index(&mut self, count: usize) -> usize {
        let count = u64::try_from(count).expect("a small count");
        usize::try_from(self.below(count)).expect("below a count")
    }

    /// True so many times in a hundred. Of bytes, zero means false.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) >= 100 - share
    }

    /// One of several.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.index(of.len())]
    }

    /// A number of any magnitude up to `high`: small ones as often as large ones.
    pub fn magnitude(&mut self, high: u64) -> u64 {
        let bits = 64 - high.leading_zeros();
        let most = (1_u64 << self.below(u64::from(bits) + 1)).saturating_mul(2) - 1;
        self.within(0, most.min(high))
    }
}
