//! What is kept of a file whose lines can make a batch: how much they cost at most.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::demand::{Bound, Labels};
use crate::domain::{Money, ObjectKind, ObjectReference};
use crate::proxy::background::Terms;
use crate::proxy::batches::pricing::Pricing;
use crate::proxy::tags::Source;

/// The result of a scan.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::proxy) struct BatchFile {
    /// What it was priced by, and the time of those prices in Unix seconds.
    priced_by: (String, i64),
    /// Its lines, blank ones left out.
    pub(super) lines: u64,
    /// The first line that costs nothing.
    pub(super) free_line: Option<u64>,
    /// Whether the tokens of their text were counted: without that, each byte is one.
    pub(super) is_counted: bool,
    /// Those that cost something, by the model that they name.
    pub(super) groups: Vec<Group>,
    /// The objects that lines name, by the names of their kinds, each with the first line that
    /// does.
    named: Vec<(String, String, u64)>,
    /// Why it can't make a batch.
    pub(super) fault: Option<Fault>,
}

/// A line that can't be priced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::proxy) struct Fault {
    /// Its number, from 1 on.
    pub(super) line: u64,
    /// What is wrong with it.
    pub(super) why: String,
    /// Whether it is clear, and asks for what can't be priced.
    pub(super) is_not_allowed: bool,
}

/// The lines of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::proxy) struct Group {
    /// The model, as the lines write it.
    pub(super) model: String,
    /// The model of their image tool, or the one that writes SVG.
    pub(super) image_model: Option<String>,
    /// For whom they are.
    pub(super) end_user: FieldOfLines,
    /// The fields by which clients group requests. Of a file that was scanned by an earlier version
    /// nothing is known.
    #[serde(default)]
    pub(super) labels: LabelsOfLines,
    /// The number of the first of them.
    pub(super) first_line: u64,
    /// What they cost at most, together.
    pub(super) bound: StoredBound,
    /// What the dearest of them costs at most, in nano-dollars.
    pub(super) line_cost_max_nano: i64,
    /// How many of them search the web once, without a usage that says so.
    pub(super) searching_lines: u64,
    /// Whether none of them has tools, is billed by anything but tokens, or asks for a tier above
    /// standard: then a sum of their tokens says what they cost.
    pub(super) is_plain: bool,
    /// The first line that leaves open how often hosted tools are called.
    pub(super) open_line: Option<u64>,
    /// Whether upstream keeps answers of theirs as objects.
    pub(super) are_stored: bool,
    /// What their answers are billed by.
    pub(super) terms: Terms,
}

/// A bound as it is stored.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::proxy) struct StoredBound {
    cost_nano: i64,
    input_tokens: u64,
    output_tokens: u64,
}

impl From<Bound> for StoredBound {
    fn from(bound: Bound) -> Self {
        let Bound { cost, input_tokens, output_tokens } = bound;
        Self { cost_nano: cost.nano(), input_tokens, output_tokens }
    }
}

impl From<StoredBound> for Bound {
    fn from(bound: StoredBound) -> Self {
        let StoredBound { cost_nano, input_tokens, output_tokens } = bound;
        Self { cost: Money::from_nano(cost_nano), input_tokens, output_tokens }
    }
}

/// What some lines have in one field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::proxy) enum FieldOfLines {
    /// Nothing.
    #[default]
    None,
    /// All of them the same text.
    One(String),
    /// Several texts, or some a text and others none.
    Several,
}

/// The labels of some lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::proxy) struct LabelsOfLines {
    prompt_cache_key: FieldOfLines,
    safety_identifier: FieldOfLines,
    user: FieldOfLines,
    metadata: BTreeMap<String, FieldOfLines>,
}

/// The most names of metadata that are kept of lines; each line has at most sixteen.
const METADATA_MAX: usize = 64;

impl Group {
    /// The path that its lines call.
    pub(super) fn operation(&self) -> &str {
        self.terms.operation_path()
    }
}

impl FieldOfLines {
    /// That of one line.
    pub(super) fn of(text: Option<&str>) -> Self {
        text.map_or(Self::None, |text| Self::One(text.to_owned()))
    }

    /// Adds that of another line.
    pub(super) fn add(&mut self, text: Option<&str>) {
        let is_same = match self {
            Self::None => text.is_none(),
            Self::One(known) => text == Some(known),
            Self::Several => true,
        };
        if !is_same {
            *self = Self::Several;
        }
    }
}

impl LabelsOfLines {
    /// Those of one line.
    pub(super) fn of(labels: &Labels) -> Self {
        let of = |text: &Option<String>| FieldOfLines::of(text.as_deref());
        let one = |(name, text): (&String, &String)| (name.clone(), FieldOfLines::One(text.clone()));
        Self {
            prompt_cache_key: of(&labels.prompt_cache_key),
            safety_identifier: of(&labels.safety_identifier),
            user: of(&labels.user),
            metadata: labels.metadata.iter().map(one).collect(),
        }
    }

    /// Adds those of another line.
    pub(super) fn add(&mut self, labels: &Labels) {
        self.prompt_cache_key.add(labels.prompt_cache_key.as_deref());
        self.safety_identifier.add(labels.safety_identifier.as_deref());
        self.user.add(labels.user.as_deref());
        for (name, known) in &mut self.metadata {
            known.add(labels.metadata.get(name).map(String::as_str));
        }
        for name in labels.metadata.keys() {
            // The lines before have none of that name.
            if self.metadata.len() < METADATA_MAX && !self.metadata.contains_key(name) {
                self.metadata.insert(name.clone(), FieldOfLines::Several);
            }
        }
    }

    /// What the lines have in the field that a tag may come from.
    pub(super) fn field(&self, source: &Source) -> &FieldOfLines {
        match source {
            Source::Own | Source::Header(_) => &FieldOfLines::None,
            Source::PromptCacheKey => &self.prompt_cache_key,
            Source::SafetyIdentifier => &self.safety_identifier,
            Source::User => &self.user,
            Source::Metadata(name) => self.metadata.get(name).unwrap_or(&FieldOfLines::None),
        }
    }
}

impl BatchFile {
    /// That of these lines.
    pub(super) fn new(
        priced_by: (String, i64),
        (lines, free_line, is_counted): (u64, Option<u64>, bool),
        groups: Vec<Group>,
        named: BTreeMap<ObjectReference, u64>,
        fault: Option<Fault>,
    ) -> Self {
        let named = named.into_iter().map(|(of, line)| (of.kind.name().to_owned(), of.id, line)).collect();
        Self { priced_by, lines, free_line, is_counted, groups, named, fault }
    }

    /// Reads it as it is stored.
    pub(super) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Its text; `None` if it can't be written.
    pub(in crate::proxy) fn text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }

    /// Whether a scan by these prices would have the same result.
    pub(super) fn is_priced_by(&self, pricing: &Pricing) -> bool {
        let (version, at_s) = &self.priced_by;
        let is_same = |model: &str| pricing.price_of(model, *at_s) == pricing.price_of(model, pricing.at_s());
        let models =
            |group: &Group| is_same(&group.model) && group.image_model.as_deref().is_none_or(is_same);
        *version == pricing.version() && self.groups.iter().all(models)
    }

    /// The objects that its lines name, each with the first line that does.
    pub(super) fn named(&self) -> Vec<(ObjectReference, u64)> {
        let kind = |name: &str| ObjectKind::ALL.into_iter().find(|kind| kind.name() == name);
        let of = |(name, id, line): &(String, String, u64)| {
            Some((ObjectReference { kind: kind(name)?, id: id.clone() }, *line))
        };
        self.named.iter().filter_map(of).collect()
    }
}
