//! Where the tags of a request come from: the header of the guard's own, and what clients already
//! send.

use std::collections::BTreeMap;
use std::fmt;

use http::{HeaderMap, HeaderValue};

use crate::domain::demand::Labels;
use crate::domain::tag;
use crate::ledger::entry::Tags;
use crate::protocol::label;
use crate::proxy::headers::TAGS;

/// Headers by which tools name a session. What is in one is turned into a value of a tag, and is
/// never refused.
const HEADERS: [&str; 4] = ["x-litellm-session-id", "session-id", "session_id", "x-session-id"];
const METADATA: &str = "metadata.";

/// One place that a tag's value may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `x-spendguard-tags`, under the tag's own name.
    Own,
    /// A header that other programs send, by its name.
    Header(&'static str),
    /// `prompt_cache_key` of the body.
    PromptCacheKey,
    /// `safety_identifier` of the body.
    SafetyIdentifier,
    /// `user` of the body.
    User,
    /// A text of the body's `metadata`, by its name.
    Metadata(String),
}

impl Source {
    /// The source of that name.
    pub fn named(name: &str) -> Option<Self> {
        if let Some(key) = name.strip_prefix(METADATA) {
            return (1..=tag::BYTES_MAX).contains(&key.len()).then(|| Self::Metadata(key.to_owned()));
        }
        let plain = [Self::Own, Self::PromptCacheKey, Self::SafetyIdentifier, Self::User];
        let mut all = plain.into_iter().chain(HEADERS.map(Self::Header));
        all.find(|source| source.to_string() == name)
    }

    /// The names of all sources, for messages.
    pub fn names() -> String {
        format!("{TAGS}, prompt_cache_key, safety_identifier, user, metadata.KEY, {}", HEADERS.join(", "))
    }

    fn of_body(&self, labels: &Labels) -> Option<String> {
        match self {
            Self::Own | Self::Header(_) => None,
            Self::PromptCacheKey => labels.prompt_cache_key.clone(),
            Self::SafetyIdentifier => labels.safety_identifier.clone(),
            Self::User => labels.user.clone(),
            Self::Metadata(key) => labels.metadata.get(key).cloned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str(TAGS),
            Self::Header(name) => f.write_str(name),
            Self::PromptCacheKey => f.write_str("prompt_cache_key"),
            Self::SafetyIdentifier => f.write_str("safety_identifier"),
            Self::User => f.write_str("user"),
            Self::Metadata(key) => write!(f, "{METADATA}{key}"),
        }
    }
}

/// The sources of tags, by the names of the tags. One that is not listed comes from the guard's own
/// header alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<String, Vec<Source>>);

impl FromIterator<(String, Vec<Source>)> for Sources {
    fn from_iter<T: IntoIterator<Item = (String, Vec<Source>)>>(sources: T) -> Self {
        Self(sources.into_iter().collect())
    }
}

impl Sources {
    /// The tags of a request, by those of the guard's own header.
    pub fn tags(&self, own: Tags, headers: &HeaderMap, labels: &Labels) -> Tags {
        self.tags_by(own, headers, |_, source| source.of_body(labels).map(Some))
    }

    /// The same, where `of_body` says what the body has of a source: `None` if nothing, and the
    /// value that the tag gets of it, if it gets one.
    pub(super) fn tags_by(
        &self,
        mut own: Tags,
        headers: &HeaderMap,
        mut of_body: impl FnMut(&str, &Source) -> Option<Option<String>>,
    ) -> Tags {
        for (tag, sources) in &self.0 {
            let written = own.remove(tag);
            let found = sources.iter().find_map(|source| match source {
                Source::Own => written.clone().map(Some),
                Source::Header(name) => {
                    let text = headers.get(*name).map(HeaderValue::as_bytes);
                    text.and_then(label::value).map(Some)
                }
                Source::PromptCacheKey | Source::SafetyIdentifier | Source::User | Source::Metadata(_) => {
                    of_body(tag, source)
                }
            });
            if let Some(value) = found.flatten() {
                own.insert(tag.clone(), value);
            }
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(of_run: &[&str]) -> Sources {
        let all = of_run.iter().map(|name| Source::named(name).unwrap()).collect();
        [("run".to_owned(), all)].into_iter().collect()
    }

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_first_source_that_a_request_has_wins() {
        let all =
            sources(&["x-spendguard-tags", "prompt_cache_key", "metadata.run_id", "x-litellm-session-id"]);
        let headers: HeaderMap = [("x-litellm-session-id", "h")]
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        let mut labels = Labels {
            prompt_cache_key: Some("p".to_owned()),
            metadata: tags(&[("run_id", "m")]),
            ..Labels::default()
        };
        let own = tags(&[("run", "own"), ("team", "t")]);
        assert_eq!(all.tags(own.clone(), &headers, &labels), own);
        assert_eq!(all.tags(Tags::new(), &headers, &labels), tags(&[("run", "p")]));
        labels.prompt_cache_key = None;
        assert_eq!(all.tags(Tags::new(), &headers, &labels), tags(&[("run", "m")]));
        assert_eq!(all.tags(Tags::new(), &headers, &Labels::default()), tags(&[("run", "h")]));
        assert_eq!(all.tags(Tags::new(), &HeaderMap::new(), &Labels::default()), Tags::new());
    }

    #[test]
    fn a_tag_comes_from_the_guards_own_header_only_where_that_is_a_source() {
        let labels = Labels { user: Some("u".to_owned()), ..Labels::default() };
        let own = tags(&[("run", "own"), ("team", "t")]);
        let from_user = sources(&["user"]);
        assert_eq!(
            from_user.tags(own.clone(), &HeaderMap::new(), &labels),
            tags(&[("run", "u"), ("team", "t")])
        );
        assert_eq!(from_user.tags(own, &HeaderMap::new(), &Labels::default()), tags(&[("team", "t")]));
        let own = tags(&[("run", "own")]);
        assert_eq!(Sources::default().tags(own.clone(), &HeaderMap::new(), &labels), own);
    }

    #[test]
    fn each_source_has_one_name() {
        for name in [
            "x-spendguard-tags",
            "prompt_cache_key",
            "safety_identifier",
            "user",
            "metadata.a.b",
            "session_id",
        ] {
            assert_eq!(Source::named(name).unwrap().to_string(), name);
        }
        for bad in [
            "",
            "metadata",
            "metadata.",
            "authorization",
            "X-Session-Id",
            &format!("metadata.{}", "k".repeat(65)),
        ] {
            assert_eq!(Source::named(bad), None, "{bad}");
        }
    }
}
