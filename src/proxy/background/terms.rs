//! What decides the cost of a job's outcome, as the row of the job keeps it.
//!
//! Every job is billed by its terms, also where the guard that began it still runs: so there is
//! one way, and another guard or a later run bills the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::demand::{ContainerDemand, ImageDemand, ImageQuality, Tier, ToolDemand, WebSearch};
use crate::domain::usage::ContainerMemory;
use crate::domain::{Class, KeptContainers, Quantities};
use crate::pricing::bound::ModelTokens;
use crate::pricing::sheet::{Sheet, UnknownModel};
use crate::protocol::openai::operation::{OPERATIONS, Operation};
use crate::proxy::bill::Bill;

/// The part of a [`Bill`] that is pinned at admission, and what else an ending needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// The path of the operation.
    operation: String,
    /// Whether it was sent with the guard's own key: only then can the guard ask for it.
    pub is_own: bool,
    /// Upstream's id of the request that began it.
    pub request_id: Option<String>,
    /// The names of the prices of the model and of the image tool's.
    price: Option<Arc<str>>,
    image_price: Option<Arc<str>>,
    /// Unix seconds of the admission: the prices of that time count.
    at_s: i64,
    tools: Tools,
    sessions: u64,
    /// The containers that the context names.
    kept_container: Option<String>,
    kept_containers_are_indexed: bool,
    requested_tier: Option<String>,
    default_tier: String,
    model_tokens: ModelTokens,
    cache_12h: bool,
    pictures: u64,
    is_uncountable: bool,
    /// Whether a second model writes what is made as SVG.
    #[serde(default)]
    writes_svg: bool,
    /// What is made or read at most, other than tokens, by the names of the classes.
    #[serde(default)]
    units: BTreeMap<String, u64>,
}

/// The tools of a request, as far as an answer's cost depends on them.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tools {
    web_search: Option<String>,
    containers: Vec<String>,
    context_container: Option<String>,
    image: Option<Image>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Image {
    model: Option<String>,
    quality: String,
    pixels: Option<u64>,
    partial_images: u64,
    extra_frames: u64,
}

/// Why terms can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// They are not in the form of this version.
    #[error("they can't be read: {0}")]
    Form(#[from] serde_json::Error),
    /// They name something that is not known.
    #[error("they name {0:?}, which is not known")]
    Name(String),
}

impl Terms {
    /// Those of an admitted request, whose context names containers.
    pub(in crate::proxy) fn of(bill: &Bill, kept: KeptContainers, is_own: bool) -> Self {
        Self {
            operation: bill.operation.path.to_owned(),
            is_own,
            request_id: None,
            price: bill.price.as_ref().map(|price| Arc::clone(&price.id)),
            image_price: bill.image_price.as_ref().map(|price| Arc::clone(&price.id)),
            at_s: bill.at_s,
            tools: Tools::of(&bill.tools),
            sessions: bill.sessions,
            kept_container: kept.largest.map(|memory| memory.name().to_owned()),
            kept_containers_are_indexed: kept.are_indexed,
            requested_tier: bill.requested_tier.map(|tier| tier.name().to_owned()),
            default_tier: bill.default_tier.name().to_owned(),
            model_tokens: bill.model_tokens,
            cache_12h: bill.cache_12h,
            pictures: bill.pictures,
            is_uncountable: bill.is_uncountable,
            writes_svg: bill.writes_svg,
            units: bill.units.non_zero().map(|(class, count)| (class.name().to_owned(), count)).collect(),
        }
    }

    /// Reads them from the row of a job.
    pub fn read(text: &str) -> Result<Self, TermsError> {
        Ok(serde_json::from_str(text)?)
    }

    /// Their text for the row of a job.
    pub(super) fn text(&self) -> Result<String, TermsError> {
        Ok(serde_json::to_string(self)?)
    }

    /// The path of the operation.
    pub(in crate::proxy) fn operation_path(&self) -> &str {
        &self.operation
    }

    /// The operation that began the job.
    pub(super) fn operation(&self) -> Result<&'static Operation, TermsError> {
        let operation = OPERATIONS.iter().find(|operation| operation.path == self.operation);
        operation.copied().ok_or_else(|| TermsError::Name(self.operation.clone()))
    }

    /// The bill, by the prices that a sheet has for the time of the admission. It may be another
    /// sheet than the one of that time.
    pub(in crate::proxy) fn bill(
        &self,
        sheet: &Arc<Sheet>,
        unknown: UnknownModel,
    ) -> Result<Bill, TermsError> {
        let price = |name: &Option<Arc<str>>| match name {
            Some(name) => match sheet.price_of(name, self.at_s, unknown) {
                Some(price) => Ok(Some(price)),
                None => Err(TermsError::Name(name.to_string())),
            },
            None => Ok(None),
        };
        let (price, image_price) = (price(&self.price)?, price(&self.image_price)?);
        Ok(Bill {
            operation: self.operation()?,
            sheet: Arc::clone(sheet),
            encoding: price.as_ref().and_then(|price| price.tokenizer),
            price,
            image_price,
            tools: self.tools.demand()?,
            sessions: self.sessions,
            sessions_each: 1,
            reused: None,
            requested_tier: self.requested_tier.as_deref().map(tier).transpose()?,
            default_tier: tier(&self.default_tier)?,
            // Its text is not kept: without usage its input counts as the bound does.
            body: None,
            at_s: self.at_s,
            model_tokens: self.model_tokens,
            reads_more: true,
            cache_12h: self.cache_12h,
            pictures: self.pictures,
            is_uncountable: self.is_uncountable,
            writes_svg: self.writes_svg,
            units: units(&self.units)?,
            spoken_plain: false,
            heard: 0,
        })
    }

    /// The containers that the context names.
    pub(super) fn kept_containers(&self) -> Result<KeptContainers, TermsError> {
        let largest = self.kept_container.as_deref().map(memory).transpose()?;
        Ok(KeptContainers { largest, are_indexed: self.kept_containers_are_indexed })
    }
}

impl Tools {
    fn of(tools: &ToolDemand) -> Self {
        let image = tools.image.as_ref().map(|tool| Image {
            model: tool.model.clone(),
            quality: quality_name(tool.quality).to_owned(),
            pixels: tool.pixels,
            partial_images: tool.partial_images,
            extra_frames: tool.extra_frames,
        });
        Self {
            web_search: tools.web_search.map(|search| search_name(search).to_owned()),
            containers: tools.containers.iter().map(|of| of.memory_max().name().to_owned()).collect(),
            context_container: tools.context_container.map(|memory| memory.name().to_owned()),
            image,
        }
    }

    fn demand(&self) -> Result<ToolDemand, TermsError> {
        let container = |name: &String| memory(name).map(ContainerDemand::Found);
        let image = self.image.as_ref().map(Image::demand).transpose()?;
        Ok(ToolDemand {
            web_search: self.web_search.as_deref().map(search).transpose()?,
            containers: self.containers.iter().map(container).collect::<Result<_, _>>()?,
            context_container: self.context_container.as_deref().map(memory).transpose()?,
            image,
            ..ToolDemand::default()
        })
    }
}

impl Image {
    fn demand(&self) -> Result<ImageDemand, TermsError> {
        Ok(ImageDemand {
            model: self.model.clone(),
            quality: quality(&self.quality)?,
            pixels: self.pixels,
            partial_images: self.partial_images,
            extra_frames: self.extra_frames,
        })
    }
}

const SEARCHES: [WebSearch; 3] = [WebSearch::Current, WebSearch::Preview, WebSearch::Chat];

const fn search_name(of: WebSearch) -> &'static str {
    match of {
        WebSearch::Current => "current",
        WebSearch::Preview => "preview",
        WebSearch::Chat => "chat",
    }
}

fn search(name: &str) -> Result<WebSearch, TermsError> {
    named(SEARCHES.into_iter().find(|of| search_name(*of) == name), name)
}

const QUALITIES: [ImageQuality; 4] =
    [ImageQuality::Low, ImageQuality::Medium, ImageQuality::High, ImageQuality::Other];

const fn quality_name(of: ImageQuality) -> &'static str {
    match of {
        ImageQuality::Low => "low",
        ImageQuality::Medium => "medium",
        ImageQuality::High => "high",
        ImageQuality::Other => "other",
    }
}

fn quality(name: &str) -> Result<ImageQuality, TermsError> {
    named(QUALITIES.into_iter().find(|of| quality_name(*of) == name), name)
}

fn units(named: &BTreeMap<String, u64>) -> Result<Quantities, TermsError> {
    let mut units = Quantities::default();
    for (name, count) in named {
        units.add(self::named(Class::named(name), name)?, *count);
    }
    Ok(units)
}

fn tier(name: &str) -> Result<Tier, TermsError> {
    named(Tier::named(name), name)
}

fn memory(name: &str) -> Result<ContainerMemory, TermsError> {
    named(ContainerMemory::named(name), name)
}

fn named<T>(found: Option<T>, name: &str) -> Result<T, TermsError> {
    found.ok_or_else(|| TermsError::Name(name.to_owned()))
}
