//! Spellings that read alike, and doubtful ones.

use proptest::prelude::*;

use super::*;
use crate::media::spelling::Spelling;

fn all(token: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    MediaReader::new(token).expect("base64").read_to_end(&mut bytes)?;
    Ok(bytes)
}

proptest! {
    #[test]
    fn every_spelling_reads_as_the_same_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..3_000), spelling in Spelling::any(),
    ) {
        let token = spelling.token(&bytes);
        prop_assert!(serde_json::from_str::<String>(&token).is_ok());
        let reader = MediaReader::new(&token).expect("base64");
        prop_assert!(reader.bytes_max() >= to_u64(bytes.len()));
        prop_assert_eq!(all(&token).unwrap(), bytes);
    }

    #[test]
    fn any_place_can_be_gone_to_in_any_spelling(
        bytes in prop::collection::vec(any::<u8>(), 1..20_000),
        spelling in Spelling::any(),
        places in prop::collection::vec(0_usize..25_000, 1..8),
    ) {
        let token = spelling.token(&bytes);
        let mut reader = MediaReader::new(&token).expect("base64");
        for place in places {
            let reached = reader.seek(SeekFrom::Start(to_u64(place))).unwrap();
            prop_assert_eq!(reached, to_u64(place.min(bytes.len())));
            let mut next = [0; 5];
            let count = reader.read(&mut next).unwrap();
            prop_assert_eq!(&next[..count], &bytes[place.min(bytes.len())..(place + 5).min(bytes.len())]);
            prop_assert_eq!(reader.position(), to_u64((place + 5).min(bytes.len()).max(place.min(bytes.len()))));
        }
    }

    #[test]
    fn nothing_that_is_sent_breaks_the_reader(token in "\"[A-Za-z0-9+/=_\\\\:;,ndu \u{e9}-]{0,80}\"", skip in 0_u64..50) {
        if let Some(mut reader) = MediaReader::new(&token) {
            let _ = reader.skip(skip);
            let _ = reader.read_to_end(&mut Vec::new());
        }
    }
}

#[test]
fn what_decoders_could_read_differently_is_an_error() {
    assert_eq!(all(r#""YQ==""#).unwrap(), b"a");
    assert_eq!(all(r#""YQ=\n=""#).unwrap(), b"a");
    for doubtful in
        [r#""YQ==YQ==""#, r#""YQ%3D""#, r#""Y!Q=""#, r#""Y""#, r#""YQé=""#, r#""Y\"Q=""#, r#""Y\u0100Q""#]
    {
        assert!(all(doubtful).is_err(), "{doubtful}");
    }
}

#[test]
fn only_base64_data_urls_are_data() {
    for other in [r"YQ==", r#""data:image/png,abc""#, r#""data:image/png;base64""#] {
        assert!(MediaReader::new(other).is_none(), "{other}");
    }
    let long = format!("\"data:{};base64,YQ==\"", "x".repeat(2_000));
    assert!(MediaReader::new(&long).is_none());
    assert!(all(r#""https://acme.example/a.png""#).is_err());
}
