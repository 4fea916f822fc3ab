//! The group of a result, and the shapes of usage that is not counted in tokens: images,
//! characters, seconds, sessions.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::Class;
use crate::store::reports::UsageSum;

/// The group of a result: the fields of `group_by`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) project: Option<String>,
    pub(super) key: Option<String>,
    pub(super) model: Option<String>,
    pub(super) batch: Option<bool>,
    pub(super) api_source: Option<&'static str>,
    /// Of images: how they were made.
    pub(super) source: Option<&'static str>,
}

/// Images. The guard does not keep their sizes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ImagesResult)]
pub(crate) struct ImagesView {
    #[schema(pattern = r"^organization\.usage\.images\.result$")]
    object: &'static str,
    images: u64,
    num_model_requests: u64,
    project_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    size: Option<()>,
    source: Option<&'static str>,
    user_id: Option<()>,
}

impl ImagesView {
    pub(super) fn of(group: Group, sum: &UsageSum) -> Self {
        Self {
            object: "organization.usage.images.result",
            images: sum.quantities[Class::Images],
            num_model_requests: sum.requests,
            project_id: group.project,
            api_key_id: group.key,
            model: group.model,
            size: None,
            source: group.source,
            user_id: None,
        }
    }
}

/// Characters that were spoken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AudioSpeechesResult)]
pub(crate) struct SpeechesView {
    #[schema(pattern = r"^organization\.usage\.audio_speeches\.result$")]
    object: &'static str,
    characters: u64,
    num_model_requests: u64,
    project_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    user_id: Option<()>,
}

impl SpeechesView {
    pub(super) fn of(group: Group, sum: &UsageSum) -> Self {
        Self {
            object: "organization.usage.audio_speeches.result",
            characters: sum.quantities[Class::Characters],
            num_model_requests: sum.requests,
            project_id: group.project,
            api_key_id: group.key,
            model: group.model,
            user_id: None,
        }
    }
}

/// Seconds of sound that were transcribed or translated.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AudioTranscriptionsResult)]
pub(crate) struct TranscriptionsView {
    #[schema(pattern = r"^organization\.usage\.audio_transcriptions\.result$")]
    object: &'static str,
    seconds: u64,
    num_model_requests: u64,
    project_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    user_id: Option<()>,
}

impl TranscriptionsView {
    pub(super) fn of(group: Group, sum: &UsageSum) -> Self {
        Self {
            object: "organization.usage.audio_transcriptions.result",
            seconds: sum.quantities[Class::AudioSeconds],
            num_model_requests: sum.requests,
            project_id: group.project,
            api_key_id: group.key,
            model: group.model,
            user_id: None,
        }
    }
}

/// Sessions of containers, whatever their memory.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CodeInterpreterSessionsResult)]
pub(crate) struct SessionsView {
    #[schema(pattern = r"^organization\.usage\.code_interpreter_sessions\.result$")]
    object: &'static str,
    num_sessions: u64,
    project_id: Option<String>,
}

impl SessionsView {
    pub(super) fn of(group: Group, sum: &UsageSum) -> Self {
        Self {
            object: "organization.usage.code_interpreter_sessions.result",
            num_sessions: sessions(sum),
            project_id: group.project,
        }
    }
}

/// Storage of vector stores: as many bytes as, stored for a day, are what was booked in the bucket.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VectorStoresResult)]
pub(crate) struct VectorStoresView {
    #[schema(pattern = r"^organization\.usage\.vector_stores\.result$")]
    object: &'static str,
    usage_bytes: u64,
    project_id: Option<String>,
}

impl VectorStoresView {
    pub(super) fn of(group: Group, sum: &UsageSum) -> Self {
        Self {
            object: "organization.usage.vector_stores.result",
            usage_bytes: sum.quantities[Class::VectorStorage].saturating_mul(1 << 20),
            project_id: group.project,
        }
    }
}

/// Searches of files or of the web.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SearchesResult)]
pub(crate) struct SearchesView {
    #[schema(pattern = r"^organization\.usage\.(file|web)_searches\.result$")]
    object: &'static str,
    num_requests: u64,
    /// Of searches of the web: the requests of the group, whether they have searched or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    num_model_requests: Option<u64>,
    project_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
    user_id: Option<()>,
}

impl SearchesView {
    pub(super) fn of_files(group: Group, sum: &UsageSum) -> Self {
        Self::of("organization.usage.file_searches.result", file_searches(sum), None, group)
    }

    pub(super) fn of_web(group: Group, sum: &UsageSum) -> Self {
        Self::of("organization.usage.web_searches.result", web_searches(sum), Some(sum.requests), group)
    }

    fn of(
        object: &'static str,
        num_requests: u64,
        num_model_requests: Option<u64>,
        Group { project: project_id, key: api_key_id, model, .. }: Group,
    ) -> Self {
        Self { object, num_requests, num_model_requests, project_id, api_key_id, model, user_id: None }
    }
}

/// Searches in files: by responses, and of vector stores themselves.
pub(super) fn file_searches(sum: &UsageSum) -> u64 {
    sum.quantities[Class::FileSearchCalls]
}

/// Searches of the web with either tool.
pub(super) fn web_searches(sum: &UsageSum) -> u64 {
    sum.quantities[Class::WebSearchCalls].saturating_add(sum.quantities[Class::WebSearchPreviewCalls])
}

/// Sessions of containers of every size; of those that are billed by the minute, twenty minutes
/// are one.
pub(super) fn sessions(sum: &UsageSum) -> u64 {
    let sizes = [
        Class::Container1gSessions,
        Class::Container4gSessions,
        Class::Container16gSessions,
        Class::Container64gSessions,
    ];
    let by_minute = sum.quantities[Class::ContainerMinutes].div_ceil(20);
    sizes.into_iter().map(|size| sum.quantities[size]).fold(by_minute, u64::saturating_add)
}
