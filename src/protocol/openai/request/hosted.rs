//! The bodies of requests that make or fill containers and vector stores, or search them.
//!
//! Only what decides the cost is read; each field of that stands once, and in one form.

use serde::Deserialize;

use super::{Invalid, fields, text};
use crate::domain::usage::ContainerMemory;
use crate::protocol::openai::json::{Loose, Raw};

/// The most minutes that a container may be idle: a year.
const IDLE_MINUTES_MAX: i64 = 525_600;
/// Bytes that a file adds to a vector store at the most, see [`AddedFiles::bytes_max`]: with the
/// chunks of 800 tokens that OpenAI cuts by default, and with those that a client asks for.
const FILE_BYTES_MAX: u64 = 64 << 20;
const CUT_FILE_BYTES_MAX: u64 = 160 << 20;

/// A container to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewContainer {
    /// Its memory.
    pub memory: ContainerMemory,
    /// How long it lives after its last use, in seconds; `None` for OpenAI's default.
    pub idle_s: Option<i64>,
}

/// Files that become a part of a vector store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddedFiles {
    /// How many.
    pub count: u64,
    /// Whether the client says how they are cut.
    pub are_cut: bool,
}

impl AddedFiles {
    /// The most bytes that each file adds.
    ///
    /// OpenAI takes up to 5,000,000 tokens of a file, and keeps chunks that overlap by half at the
    /// most, each with an embedding of 256 numbers, so 1 KiB (its guide on retrieval). A token
    /// counts as four bytes of text. By default that is 53 MB: 12,500 chunks of 800 tokens. With
    /// the shortest chunks, of 100 tokens, it is 142 MB.
    pub fn bytes_max_each(self) -> u64 {
        if self.are_cut { CUT_FILE_BYTES_MAX } else { FILE_BYTES_MAX }
    }

    /// The most bytes that all of them add.
    pub fn bytes_max(self) -> u64 {
        self.count.saturating_mul(self.bytes_max_each())
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Container<'a> {
    #[serde(borrow)]
    memory_limit: Raw<'a>,
    #[serde(borrow)]
    expires_after: Loose<ExpiresAfter<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ExpiresAfter<'a> {
    #[serde(borrow)]
    minutes: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Additions<'a> {
    #[serde(borrow)]
    file_id: Raw<'a>,
    #[serde(borrow)]
    file_ids: Raw<'a>,
    #[serde(borrow)]
    files: Raw<'a>,
    #[serde(borrow)]
    chunking_strategy: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OneFile<'a> {
    #[serde(borrow)]
    chunking_strategy: Raw<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Search<'a> {
    #[serde(borrow)]
    query: Raw<'a>,
}

/// Reads the body of `POST /containers`.
///
/// ```
/// use spendguard::domain::usage::ContainerMemory;
/// use spendguard::protocol::openai::request;
/// let read = request::new_container(br#"{"name": "a", "memory_limit": "4g"}"#).expect("it is a container");
/// assert_eq!((read.memory, read.idle_s), (ContainerMemory::G4, None));
/// ```
pub fn new_container(body: &[u8]) -> Result<NewContainer, Invalid> {
    let Container { memory_limit, expires_after } = fields(text(body)?)?;
    let memory = match memory_limit.value() {
        None => ContainerMemory::default(),
        Some(_) => memory_limit
            .string()
            .and_then(|name| ContainerMemory::named(&name))
            .ok_or_else(|| Invalid::field("memory_limit", "use 1g, 4g, 16g or 64g"))?,
    };
    let minutes = |text: &str| text.parse().ok().filter(|minutes| (1..=IDLE_MINUTES_MAX).contains(minutes));
    let idle_s = match expires_after.0.minutes.value() {
        None => None,
        Some(text) => Some(
            minutes(text)
                .ok_or_else(|| Invalid::field("expires_after", "use whole minutes, up to a year"))?
                * 60,
        ),
    };
    Ok(NewContainer { memory, idle_s })
}

/// Reads the files that a body adds to a vector store; an empty body adds none.
pub fn added_files(body: &[u8]) -> Result<AddedFiles, Invalid> {
    if body.is_empty() {
        return Ok(AddedFiles::default());
    }
    let Additions { file_id, file_ids, files, chunking_strategy } = fields(text(body)?)?;
    let ids = list::<Raw<'_>>(file_ids, "file_ids")?;
    let own = list::<Loose<OneFile<'_>>>(files, "files")?;
    let is_cut = |strategy: Raw<'_>| strategy.value().is_some();
    let count = usize::from(file_id.value().is_some()).saturating_add(ids.len()).saturating_add(own.len());
    Ok(AddedFiles {
        count: u64::try_from(count).unwrap_or(u64::MAX),
        are_cut: is_cut(chunking_strategy) || own.iter().any(|Loose(file)| is_cut(file.chunking_strategy)),
    })
}

/// Reads how many searches a body asks for: one for each query.
pub fn searches(body: &[u8]) -> Result<u64, Invalid> {
    let Search { query } = fields(text(body)?)?;
    if query.quoted().is_some() {
        return Ok(1);
    }
    let queries = list::<Raw<'_>>(query, "query")?;
    Ok(u64::try_from(queries.len()).unwrap_or(u64::MAX).max(1))
}

/// The elements of a list; of null, none.
fn list<'a, T: Deserialize<'a>>(of: Raw<'a>, param: &'static str) -> Result<Vec<T>, Invalid> {
    let Some(text) = of.value() else { return Ok(Vec::new()) };
    serde_json::from_str(text).map_err(|_| Invalid::field(param, "it is no list of this kind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_the_memory_and_the_life_that_are_asked_for() {
        let read = |body: &str| new_container(body.as_bytes()).map(|read| (read.memory, read.idle_s));
        let minutes =
            r#"{"memory_limit": "64\u0067", "expires_after": {"anchor": "last_active_at", "minutes": 5}}"#;
        assert_eq!(read(minutes), Ok((ContainerMemory::G64, Some(300))));
        assert_eq!(read(r#"{"memory_limit": null}"#), Ok((ContainerMemory::G1, None)));
        for (body, param) in [
            (r#"{"memory_limit": "2g"}"#, Some("memory_limit")),
            (r#"{"memory_limit": 4}"#, Some("memory_limit")),
            (r#"{"memory_limit": "1g", "memory_limit": "64g"}"#, None),
            (r#"{"expires_after": {"minutes": 0}}"#, Some("expires_after")),
            (r#"{"expires_after": {"minutes": 1e9}}"#, Some("expires_after")),
            (r#"{"expires_after": {"minutes": 5, "minutes": 500}}"#, None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(new_container(body.as_bytes()).unwrap_err().param, param, "{body}");
        }
    }

    #[test]
    fn every_file_that_is_added_counts() {
        let read = |body: &str| added_files(body.as_bytes()).map(|read| (read.count, read.are_cut));
        assert_eq!(read(""), Ok((0, false)));
        assert_eq!(read(r#"{"name": "a", "file_ids": ["file-1", "file-2"]}"#), Ok((2, false)));
        assert_eq!(
            read(r#"{"file_id": "file-1", "chunking_strategy": {"type": "static"}}"#),
            Ok((1, true)),
            "the client may ask for short chunks"
        );
        let files = r#"{"files": [{"file_id": "file-1"}, {"file_id": "file-2", "chunking_strategy": {}}]}"#;
        assert_eq!(read(files), Ok((2, true)));
        assert_eq!(read(r#"{"file_ids": null, "files": []}"#), Ok((0, false)));
        for body in [r#"{"file_ids": "file-1"}"#, r#"{"file_ids": [], "file_ids": ["a"]}"#, r#"{"files": 5}"#]
        {
            assert!(added_files(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn every_query_is_a_search() {
        let read = |body: &str| searches(body.as_bytes()).ok();
        assert_eq!(read(r#"{"query": "a"}"#), Some(1));
        assert_eq!(read(r#"{"query": ["a", "b", "c"]}"#), Some(3));
        assert_eq!(read("{}"), Some(1));
        assert_eq!(read(r#"{"query": {"a": 1}}"#), None);
        assert_eq!(read(r#"{"query": "a", "query": ["a", "b"]}"#), None);
    }
}
