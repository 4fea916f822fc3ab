//! Holds the guard's bound of a request against the most that OpenAI could
//! charge for it, by the oracle.
//!
//! The oracle reads the body as upstream receives it, with what the guard
//! wrote into it.

use oracle::ask::Ask;
use oracle::world::TextCount;
use oracle::{Chance, Endpoint, World, draw, maximum, prices};
use spendguard::domain::demand::{Tier, WebSearch};
use spendguard::domain::{Demand, KeptSize, ObjectKind};
use spendguard::pricing::bound::{BoundInputs, ToolsBound, bound};
use spendguard::pricing::count;
use spendguard::pricing::plan::Policy;
use spendguard::pricing::sheet::Sheet;
use spendguard::protocol::openai::request::Edit;
use spendguard::protocol::openai::{OPERATIONS, Operation};

/// The instant at which requests are priced: the oracle's day, at noon.
const AT_S: i64 = 1_795_867_200;
const OUTPUT_DEFAULT: u64 = 16_384;
const CALLS_MAX: u64 = 8;

/// The guard's prices, with and without a region.
#[derive(Debug)]
pub struct Sheets {
    plain: Sheet,
    regional: Sheet,
}

impl Sheets {
    /// Those that are built in.
    pub fn built_in() -> Self {
        let sheet = || Sheet::built_in(&[]).expect("the sheet is whole");
        Self { plain: sheet(), regional: sheet().in_region("us") }
    }
}

/// A request whose hold may be too small.
#[derive(Debug)]
pub struct Case {
    /// Where it is sent.
    pub endpoint: Endpoint,
    /// As the client sends it.
    pub body: Vec<u8>,
    /// What surrounds it.
    pub world: World,
}

/// Draws a request and its world.
pub fn case(chance: &mut Chance, sizes: draw::Sizes) -> Case {
    let mut world = World::furnished();
    world.project_tier =
        chance.one(&[prices::Tier::Standard, prices::Tier::Standard, prices::Tier::Priority]);
    world.is_regional = chance.percent(20);
    let endpoint = chance.one(&Endpoint::ALL);
    let body = draw::body(chance, endpoint, sizes);
    Case { endpoint, body, world }
}

/// What the guard knows of an endpoint.
pub fn operation(endpoint: Endpoint) -> &'static Operation {
    let found = OPERATIONS.into_iter().find(|operation| operation.path == endpoint.path());
    found.expect("the guard meters it")
}

/// The tokens of all objects that a request names, if they are known.
fn context_tokens(world: &World, demand: &Demand) -> Option<u64> {
    let of = |reference: &spendguard::domain::ObjectReference| match reference.kind {
        ObjectKind::Response => world.responses.get(&reference.id).copied(),
        ObjectKind::Conversation => world.conversations.get(&reference.id).copied(),
        ObjectKind::Item => world.items.get(&reference.id).copied(),
        ObjectKind::VectorStore | ObjectKind::Container => Some(0),
        ObjectKind::ChatCompletion
        | ObjectKind::File
        | ObjectKind::Batch
        | ObjectKind::Skill
        | ObjectKind::Upload
        | ObjectKind::Eval
        | ObjectKind::FineTuningJob
        | ObjectKind::Video => None,
    };
    let known: Option<u64> = demand.references.iter().map(of).sum();
    known.filter(|_| !demand.server_context)
}

/// What a guard in a world writes into requests that leave their cost open.
fn policy(world: &World) -> Policy {
    let is_fast = matches!(world.project_tier, prices::Tier::Priority);
    Policy {
        output_default: OUTPUT_DEFAULT,
        tool_calls_max: CALLS_MAX,
        tool_context_max: world.assumed.call_tokens_max,
        tools_bound: ToolsBound::Practical,
        project_tier: if is_fast { Tier::Priority } else { Tier::Standard },
    }
}

/// What can be wrong with a case: none if its hold covers all that it can cost.
///
/// `knows` says whether the guard knows the objects that the request names. What
/// the guard refuses, or has no price for, is covered.
pub fn below(sheets: &Sheets, case: &Case, knows: bool) -> Option<String> {
    let mut parsed = operation(case.endpoint).read(&case.body).ok()?;
    let is_injected = parsed.wants_usage_injected();
    let demand = &mut parsed.demand;
    let sheet = if case.world.is_regional { &sheets.regional } else { &sheets.plain };
    let price = sheet.find(&demand.model, AT_S)?;
    if case.endpoint == Endpoint::Chat && price.searches_always {
        demand.tools.web_search = Some(WebSearch::Chat);
    }
    if demand.stored_prompt {
        // Refused unless they are allowed; the simulation allows them.
        return None;
    }
    let image_price = match &demand.tools.image {
        Some(tool) => Some(sheet.find(tool.model.as_deref().unwrap_or("gpt-image-1.5"), AT_S)?),
        None => None,
    };
    let policy = policy(&case.world);
    let written =
        policy.written(&price, demand, !matches!(case.endpoint, Endpoint::Compact | Endpoint::Embeddings));
    let nothing = !demand.server_context && demand.references.is_empty();
    let context = if knows { context_tokens(&case.world, demand) } else { nothing.then_some(0) };
    let inputs = policy.inputs(demand, written, KeptSize { tokens: context, ..KeptSize::NOTHING });
    let edit = Edit {
        include_usage: is_injected,
        output_max: written.output_max,
        tool_calls_max: written.tool_calls,
    };
    let demand = &parsed.demand;
    let held_pico = |inputs: BoundInputs| {
        let nano = bound(&price, image_price.as_deref(), demand, inputs).cost.nano();
        u128::try_from(nano).expect("no hold is negative") * 1_000
    };
    let sent = parsed.rewrite(&case.body, &edit).unwrap_or_else(|| case.body.clone());
    let mut world = case.world.clone();
    let mut exceeds = |text: TextCount, held: u128| {
        world.assumed.text = text;
        let ask = Ask::read(&world, case.endpoint, &sent)?;
        let most = maximum::of(&world, &ask);
        (most > held).then(|| {
            let times = most / (held.max(1) / 100).max(1);
            format!("{most} > {held} picodollars ({times} %) with {text:?}: {ask:?} of {inputs:?}")
        })
    };
    if let Some(fault) = exceeds(TextCount::Bytes, held_pico(inputs)) {
        return Some(fault);
    }
    let encoding = price.tokenizer?;
    let text = std::str::from_utf8(&case.body).expect("what was read is UTF-8");
    let counted = count::body_upper(encoding, text, &parsed.demand.media.inline, 1 << 40);
    exceeds(TextCount::Pieces, held_pico(BoundInputs { text_tokens: counted, ..inputs }))
}
