//! The shapes of usage and costs.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::usage_units::{
    Group, ImagesView, SearchesView, SessionsView, SpeechesView, TranscriptionsView, VectorStoresView,
};
use crate::domain::{Class, Money};
use crate::store::reports::UsageSum;

/// A page of buckets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsagePage)]
pub(crate) struct PageView {
    pub(super) object: &'static str,
    pub(super) data: Vec<BucketView>,
    pub(super) has_more: bool,
    /// The value of `page` for the next page.
    pub(super) next_page: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Bucket)]
pub(crate) struct BucketView {
    pub(super) object: &'static str,
    pub(super) start_time: i64,
    pub(super) end_time: i64,
    pub(super) results: Vec<ResultView>,
}

/// One group of a bucket. Fields that it is not grouped by are null.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BucketResult)]
#[serde(untagged)]
pub(crate) enum ResultView {
    Completions(Box<CompletionsView>),
    Embeddings(EmbeddingsView),
    Images(ImagesView),
    Speeches(SpeechesView),
    Transcriptions(TranscriptionsView),
    Sessions(SessionsView),
    VectorStores(VectorStoresView),
    Searches(SearchesView),
    Costs(CostsView),
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CompletionsResult)]
pub(crate) struct CompletionsView {
    #[schema(pattern = r"^organization\.usage\.(completions|decisions)\.result$")]
    object: &'static str,
    input_tokens: u64,
    output_tokens: u64,
    num_model_requests: u64,
    input_cached_tokens: u64,
    input_uncached_tokens: u64,
    input_cache_write_tokens: u64,
    input_cache_write_30m_tokens: u64,
    input_cache_write_12h_tokens: u64,
    input_text_tokens: u64,
    input_audio_tokens: u64,
    input_image_tokens: u64,
    input_cached_text_tokens: u64,
    input_cached_audio_tokens: u64,
    input_cached_image_tokens: u64,
    output_text_tokens: u64,
    output_audio_tokens: u64,
    output_image_tokens: u64,
    project_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    batch: Option<bool>,
    api_source: Option<&'static str>,
    user_id: Option<()>,
    service_tier: Option<()>,
}

impl CompletionsView {
    /// The usage of a group, as an object of that name.
    pub(super) fn of(object: &'static str, group: Group, sum: &UsageSum) -> Self {
        let q = &sum.quantities;
        Self {
            object,
            input_tokens: q.input_tokens_total(),
            output_tokens: q.output_tokens_total(),
            num_model_requests: sum.requests,
            input_cached_tokens: q.cached_tokens_total(),
            input_uncached_tokens: [q[Class::Input], q[Class::AudioInput], q[Class::ImageInput]]
                .into_iter()
                .fold(0, u64::saturating_add),
            input_cache_write_tokens: q[Class::CacheWrite].saturating_add(q[Class::CacheWrite12h]),
            input_cache_write_30m_tokens: q[Class::CacheWrite],
            input_cache_write_12h_tokens: q[Class::CacheWrite12h],
            input_text_tokens: q[Class::Input],
            input_audio_tokens: q[Class::AudioInput],
            input_image_tokens: q[Class::ImageInput],
            input_cached_text_tokens: q[Class::CachedInput],
            input_cached_audio_tokens: q[Class::AudioCachedInput],
            input_cached_image_tokens: q[Class::ImageCachedInput],
            output_text_tokens: q[Class::Output].saturating_add(q[Class::Reasoning]),
            output_audio_tokens: q[Class::AudioOutput],
            output_image_tokens: q[Class::ImageOutput],
            project_id: group.project,
            api_key_id: group.key,
            model: group.model,
            batch: group.batch,
            api_source: group.api_source,
            user_id: None,
            service_tier: None,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EmbeddingsResult)]
pub(crate) struct EmbeddingsView {
    #[schema(pattern = r"^organization\.usage\.embeddings\.result$")]
    object: &'static str,
    input_tokens: u64,
    num_model_requests: u64,
    project_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    user_id: Option<()>,
}

impl EmbeddingsView {
    pub(super) fn of(group: Group, sum: &UsageSum) -> Self {
        Self {
            object: "organization.usage.embeddings.result",
            input_tokens: sum.quantities.input_tokens_total(),
            num_model_requests: sum.requests,
            project_id: group.project,
            api_key_id: group.key,
            model: group.model,
            user_id: None,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CostsResult)]
pub(crate) struct CostsView {
    #[schema(pattern = r"^organization\.costs\.result$")]
    object: &'static str,
    amount: AmountView,
    /// A model, or the path of requests without a model.
    line_item: Option<String>,
    quantity: Option<u64>,
    quantity_unit: Option<&'static str>,
    project_id: Option<String>,
    api_key_id: Option<String>,
    api_source: Option<&'static str>,
    user_id: Option<()>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CostAmount)]
struct AmountView {
    /// A JSON number of which every digit counts.
    #[schema(value_type = f64)]
    value: Box<RawValue>,
    currency: &'static str,
}

impl CostsView {
    pub(super) fn of(group: Group, sum: &UsageSum) -> Self {
        let tokens = group.model.as_ref().map(|_| sum.quantities.tokens_total()).filter(|total| *total > 0);
        Self {
            object: "organization.costs.result",
            amount: AmountView { value: number(sum.cost), currency: "usd" },
            line_item: group.model,
            quantity: tokens,
            quantity_unit: tokens.map(|_| "tokens"),
            project_id: group.project,
            api_key_id: group.key,
            api_source: group.api_source,
            user_id: None,
        }
    }
}

/// Dollars as a JSON number, exact.
fn number(money: Money) -> Box<RawValue> {
    // A decimal text is always a valid number.
    RawValue::from_string(money.to_string()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
