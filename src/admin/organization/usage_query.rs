//! What usage and costs may be asked, for the document. Names may come again in
//! these queries, so that they are read as pairs and not into these.

#![expect(dead_code, reason = "only the document is made of these")]

use utoipa::IntoParams;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct UsageKind {
    /// What is counted. Of all but completions and embeddings the guard knows only costs.
    #[param(pattern = "^(completions|embeddings|moderations|images|audio_speeches|audio_transcriptions|\
        vector_stores|code_interpreter_sessions|file_search_calls|web_search_calls|decisions)$")]
    kind: String,
}

/// What both may be asked.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct BucketsQuery {
    /// Unix seconds in the first bucket.
    #[param(minimum = 0, maximum = 253_402_300_799_i64)]
    start_time: i64,
    /// Unix seconds behind the last bucket's start; now if it is not said.
    #[param(minimum = 0, maximum = 253_402_300_799_i64)]
    end_time: Option<i64>,
    /// `next_page` of the page before.
    page: Option<String>,
    /// Only of these.
    #[param(max_items = 100)]
    project_ids: Option<Vec<String>>,
    /// Only of these.
    #[param(max_items = 100)]
    api_key_ids: Option<Vec<String>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct UsageQuery {
    /// `1m`, `1h`, or `1d` if it is not said.
    #[param(pattern = "^1[mhd]$")]
    bucket_width: Option<String>,
    /// How many buckets to a page: up to 1440 of `1m`, 168 of `1h`, 31 of `1d`.
    #[param(minimum = 1, maximum = 1440)]
    limit: Option<usize>,
    /// Only of these.
    #[param(max_items = 100)]
    models: Option<Vec<String>>,
    /// `true`: only of batches, of which the guard has none; `false`: only of the rest.
    batch: Option<bool>,
    /// `project_id`, `api_key_id`, `model` or `user_id`; of completions `batch`, `api_source` and `service_tier` too.
    /// Users and tiers are null, since sums don't tell them apart.
    #[param(max_items = 100)]
    group_by: Option<Vec<String>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CostsQuery {
    /// `1d`.
    #[param(pattern = "^1d$")]
    bucket_width: Option<String>,
    /// How many buckets to a page; 7 if it is not said.
    #[param(minimum = 1, maximum = 180)]
    limit: Option<usize>,
    /// Only of these.
    #[param(max_items = 100)]
    line_items: Option<Vec<String>>,
    /// `project_id`, `api_key_id`, `line_item`, `api_source` or `user_id`, which is null.
    #[param(max_items = 100)]
    group_by: Option<Vec<String>>,
}
