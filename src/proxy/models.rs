//! The models that a request runs in addition to the one it names, and whether its
//! key and its limits allow them.
//!
//! A stored prompt may name the model in the request's place, and may carry an image
//! generation tool; a tool may leave its model to upstream. Such a model is known by a
//! pattern. Rules that restrict reach all that fits it, and where a rule needs the one
//! model, the request is refused.

use std::sync::Arc;

use crate::domain::demand::{ContainerDemand, ImageDemand, ImageQuality, WebSearch};
use crate::domain::usage::ContainerMemory;
use crate::domain::{Demand, model};
use crate::guard::Standing;
use crate::ledger::Headroom;
use crate::pricing::sheet::Price;
use crate::proxy::auth::Caller;
use crate::proxy::refuse::{Refusal, bounded};
use crate::proxy::{Proxy, Rules};

const STORED_PROMPT: &str = "A stored prompt may carry tools, files and a model that only upstream knows, so it can't be used under a hard limit; send its content instead, or have the operator set guard.stored_prompts = \"allow\".";
const SUBAGENTS: &str = "With `multi_agent`, upstream may run any number of agents, so that nothing bounds what the request costs, and it can't be used under a hard limit or credit. Send the request without `multi_agent`.";
const NO_MODEL: &str = "Only upstream knows the model of this stored prompt, and the models or limits of this key depend on it. Name a model in the request.";
const NO_IMAGE_MODEL: &str = "Only upstream knows which model the image_generation tool would run, and a limit counts each model by itself. Name the image_generation tool's model in the request.";
const PROMPT_DRAWS: &str = "A stored prompt may carry an image_generation tool whose model only upstream knows, and a limit counts each model by itself. Send the prompt's content instead.";

const PROMPT_MAY_DRAW: &str = ", which an image_generation tool of the stored prompt may run";
const TOOL_NAMES_NONE: &str = ", which the image_generation tool may run, as it names no model";

/// The prices of the model and of the image tool's model.
pub(super) type Prices = (Option<Arc<Price>>, Option<Arc<Price>>);

/// The model that a request asks for, as rules know it.
pub(super) fn requested(demand: &Demand) -> &str {
    if demand.model.is_empty() && demand.stored_prompt { model::ANY } else { &demand.model }
}

/// The model of its image tool, as rules know it, or the one that writes SVG; `None` if it
/// has neither.
pub(super) fn of_images(demand: &Demand) -> Option<&str> {
    if let Some(model) = &demand.svg_model {
        return Some(model);
    }
    let tool = demand.tools.image.as_ref()?;
    let named = tool.model.as_deref().filter(|_| !demand.stored_prompt);
    Some(named.unwrap_or(model::ANY_IMAGE))
}

/// Treats a stored prompt as if it contained every tool.
pub(super) fn fill_stored_prompt(demand: &mut Demand) {
    if !demand.stored_prompt {
        return;
    }
    let tools = &mut demand.tools;
    tools.web_search = Some(WebSearch::Preview);
    tools.file_search = true;
    tools.containers.push(ContainerDemand::Made(ContainerMemory::G64));
    tools.image.get_or_insert_with(|| ImageDemand { quality: ImageQuality::Other, ..ImageDemand::default() });
    tools.loops = true;
}

/// Refuses a request with content that only upstream knows, if a cap depends on it:
/// stored prompts unless they are allowed, and models that are not named.
pub(super) fn refuse_unknown(rules: &Rules, demand: &Demand, standing: &Standing) -> Result<(), Refusal> {
    let (is_capped, by_model) = (standing.is_capped(), standing.left.by_model);
    let no = |message: &str, param| Err(Refusal::FieldNotAllowed(message.to_owned(), Some(param)));
    if demand.stored_prompt && is_capped && !rules.admit.stored_prompts {
        return no(STORED_PROMPT, "prompt");
    }
    if demand.subagents && is_capped {
        return no(SUBAGENTS, "multi_agent");
    }
    if requested(demand) == model::ANY && (is_capped || by_model) {
        return no(NO_MODEL, "model");
    }
    match of_images(demand) {
        Some(model::ANY_IMAGE) if by_model => {
            if demand.stored_prompt {
                no(PROMPT_DRAWS, "prompt")
            } else {
                no(NO_IMAGE_MODEL, "tools")
            }
        }
        _ => Ok(()),
    }
}

/// The prices of a request's models. Under a dollar cap both must be known. If
/// limits only alert, a model without a price is billed as the most expensive one,
/// so that no alert is missed.
pub(super) fn prices(
    rules: &Rules,
    demand: &Demand,
    priced: Option<Arc<Price>>,
    left: Headroom,
    now_s: i64,
) -> Result<Prices, Refusal> {
    let known = |priced: Option<Arc<Price>>, model: &str| match priced {
        None if left.cost.is_some() => Err(Refusal::NotPriced(bounded(model), None)),
        None if left.shows_cost => Ok(Some(rules.sheet.dearest(now_s))),
        found => Ok(found),
    };
    let price = known(priced, &demand.model)?;
    let Some(image_model) = of_images(demand) else { return Ok((price, None)) };
    let image_price = if image_model == model::ANY_IMAGE {
        rules.sheet.dearest_image_model(now_s)
    } else {
        rules.sheet.price_of(image_model, now_s, rules.unknown_model)
    };
    Ok((price, known(image_price, image_model)?))
}

impl Proxy {
    /// Refuses a model that the key or its project may not use, the image tool's too.
    pub(super) fn check_models(
        &self,
        rules: &Rules,
        caller: &Caller,
        demand: &Demand,
        priced: Option<&Price>,
    ) -> Result<(), Refusal> {
        let requested = requested(demand);
        if !self.allows(caller, requested, priced) {
            return Err(if requested == model::ANY {
                Refusal::FieldNotAllowed(NO_MODEL.to_owned(), Some("model"))
            } else {
                Refusal::ModelNotAllowed(bounded(requested), "".into())
            });
        }
        let Some(image) = of_images(demand) else { return Ok(()) };
        if image != model::ANY_IMAGE {
            let is_allowed = self.may_use(rules, caller, image);
            return if is_allowed {
                Ok(())
            } else {
                Err(Refusal::ModelNotAllowed(bounded(image), "".into()))
            };
        }
        let why = if demand.stored_prompt { PROMPT_MAY_DRAW } else { TOOL_NAMES_NONE };
        let dearest = rules.sheet.dearest_image_model(self.guard.clock().now_s());
        if let Some(dearest) = dearest.filter(|price| !self.allows(caller, &price.id, Some(price))) {
            return Err(Refusal::ModelNotAllowed(dearest.id.to_string(), why.into()));
        }
        let denied = self.guard.ring().denied(&caller.key.project, image);
        denied.map_or(Ok(()), |rule| Err(Refusal::ModelNotAllowed(bounded(&rule), why.into())))
    }

    /// Whether a key and its project may use a model.
    pub(super) fn may_use(&self, rules: &Rules, caller: &Caller, model: &str) -> bool {
        let priced = rules.sheet.price_of(model, self.guard.clock().now_s(), rules.unknown_model);
        self.allows(caller, model, priced.as_deref())
    }

    fn allows(&self, caller: &Caller, model: &str, priced: Option<&Price>) -> bool {
        let priced_as = priced.map(|price| &*price.id);
        caller.key.allows(model) && self.guard.ring().allows(&caller.key.project, model, priced_as)
    }
}
