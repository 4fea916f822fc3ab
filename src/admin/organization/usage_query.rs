//! The queries of usage and costs, for the OpenAPI document. A name may be
//! repeated, so requests are read as pairs and not into these structs.

#![expect(dead_code, reason = "only the document is made of these")]

use utoipa::IntoParams;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct UsageKind {
    /// The kind of usage. The guard counts completions, embeddings, images, speeches,
    /// transcriptions and sessions of containers; of the others it knows only the costs.
    #[param(pattern = "^(completions|embeddings|moderations|images|audio_speeches|audio_transcriptions|\
        vector_stores|code_interpreter_sessions|file_search_calls|web_search_calls|decisions)$")]
    kind: String,
}

/// The parameters of both.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BucketsQuery {
    /// A time in the first bucket, in Unix seconds.
    #[param(minimum = 0, maximum = 253_402_300_799_i64)]
    start_time: i64,
    /// A time after the start of the last bucket, in Unix seconds. Default: now.
    #[param(minimum = 0, maximum = 253_402_300_799_i64)]
    end_time: Option<i64>,
    /// `next_page` of the previous page.
    page: Option<String>,
    /// Only these projects.
    #[param(max_items = 100)]
    project_ids: Option<Vec<String>>,
    /// Only these keys.
    #[param(max_items = 100)]
    api_key_ids: Option<Vec<String>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// Of images: only those made so.
    #[param(max_items = 100)]
    sources: Option<Vec<String>>,
    /// `1m`, `1h` or `1d`. Default: `1d`.
    #[param(pattern = "^1[mhd]$")]
    bucket_width: Option<String>,
    /// The number of buckets in a page: up to 1440 of `1m`, 168 of `1h`, 31 of `1d`.
    #[param(minimum = 1, maximum = 1440)]
    limit: Option<usize>,
    /// Only these models.
    #[param(max_items = 100)]
    models: Option<Vec<String>>,
    /// `true`: only batches; `false`: only other requests.
    batch: Option<bool>,
    /// `project_id`, `api_key_id`, `model` or `user_id`; for completions also `batch`, `api_source` and
    /// `service_tier`. Users and tiers are null, since the sums don't distinguish them.
    #[param(max_items = 100)]
    group_by: Option<Vec<String>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CostsQuery {
    /// `1d`.
    #[param(pattern = "^1d$")]
    bucket_width: Option<String>,
    /// The number of buckets in a page. Default: 7.
    #[param(minimum = 1, maximum = 180)]
    limit: Option<usize>,
    /// Only these line items.
    #[param(max_items = 100)]
    line_items: Option<Vec<String>>,
    /// `project_id`, `api_key_id`, `line_item`, `api_source` or `user_id`, which is null.
    #[param(max_items = 100)]
    group_by: Option<Vec<String>>,
}
