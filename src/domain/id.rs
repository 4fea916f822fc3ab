//! Identifiers: a prefix for the kind of object, then base62 characters.

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Base62 characters from random bytes, one for each byte that can be mapped
/// without bias; bytes from 248 up are skipped.
pub fn base62(random: impl IntoIterator<Item = u8>, chars: usize) -> String {
    let fair = random.into_iter().filter(|byte| *byte < 248);
    fair.take(chars).map(|byte| char::from(BASE62[usize::from(byte) % BASE62.len()])).collect()
}

/// A number as exactly `chars` base62 digits, the most significant first.
pub fn base62_number(mut number: u64, chars: usize) -> String {
    let mut digits = vec!['0'; chars];
    for digit in digits.iter_mut().rev() {
        let index = usize::try_from(number % 62).unwrap_or(0);
        *digit = char::from(BASE62[index]);
        number /= 62;
    }
    digits.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_fixed_width() {
        assert_eq!(base62_number(0, 6), "000000");
        assert_eq!(base62_number(u64::from(u32::MAX), 6), "4gfFC3");
    }

    #[test]
    fn biased_bytes_are_skipped() {
        assert_eq!(base62([255, 0, 61, 62], 3), "0z0");
    }
}
