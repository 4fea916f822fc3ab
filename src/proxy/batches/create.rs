//! Makes a batch: each model of its lines has a hold, and a job once upstream has made it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{Response, request};

use crate::domain::demand::{Bound, Tier};
use crate::domain::limit::{Mode, Per};
use crate::domain::{Demand, Limit, Money, ObjectKind, ObjectReference};
use crate::guard::objects::{Reach, put};
use crate::guard::{Guard, Reservation, ReserveRequest};
use crate::ledger::denial::Denial;
use crate::ledger::entry::Attribution;
use crate::protocol::openai::batch::{Batch, BatchState, MODERATIONS, NewBatch};
use crate::protocol::openai::endpoint::BATCHES;
use crate::protocol::openai::usage;
use crate::proxy::admit::{COST_MAX, is_hopeless};
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::batches::file::{BatchFile, Fault, FieldOfLines, Group};
use crate::proxy::batches::holds::Holds;
use crate::proxy::batches::lines::Depth;
use crate::proxy::batches::pricing::Pricing;
use crate::proxy::batches::terms::BatchTerms;
use crate::proxy::bill::Exchange;
use crate::proxy::exchange::answered;
use crate::proxy::headers::{self, GuardHeaders};
use crate::proxy::in_flight::InFlight;
use crate::proxy::lists::whole;
use crate::proxy::outgoing::Outgoing;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::record::made_by;
use crate::proxy::refuse::{Billed, Levers, Named, NoAnswer, Refusal, bounded};
use crate::proxy::{Content, Failed, Proxy, Rules, models, outgoing, rate_headers};
use crate::upstream::{AnswerBody, Upstream};

impl Proxy {
    /// Serves `POST /batches`.
    pub(in crate::proxy) async fn batch(
        self: &Arc<Self>,
        rules: &Arc<Rules>,
        (head, body): (request::Parts, Bytes),
        caller: Caller,
        mut in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        let holds = match self.hold_batch(rules, &head, &body, &caller).await {
            Ok(holds) => holds,
            Err(refusal) => return Err((refusal, in_flight)),
        };
        if let Some(first) = holds.reservations().next() {
            in_flight.admitted(first.hold());
        }
        let outgoing = outgoing(rules, head, body, &caller, Content::Json, &in_flight);
        let pass_through = caller.key.pass_through;
        let (shard, upstream) = (Arc::clone(self), Arc::clone(self.upstream(rules)));
        let making = async move {
            let made = make(&shard.guard, &upstream, outgoing, holds, &caller, in_flight).await;
            let is_accepted = made.as_ref().is_ok_and(|answer| answer.status().is_success());
            shard.remember(&caller, is_accepted).await;
            made
        };
        let answer = self.to_its_end(Box::pin(making)).await;
        self.concealed(rules, answer, pass_through).await
    }

    /// Holds what a batch may cost, for each model of its lines.
    async fn hold_batch(
        &self,
        rules: &Rules,
        head: &request::Parts,
        body: &Bytes,
        caller: &Caller,
    ) -> Result<Holds, Refusal> {
        let asked = self.guard.parsed(body, |body| NewBatch::read(body)).await.map_err(refuse_invalid)?;
        let GuardHeaders { tags, max_cost, .. } = headers::guard_headers(&head.headers)?;
        let demand = Demand::default();
        let of_request = rules.tags.tags(tags.clone(), &head.headers, &demand.labels);
        let nothing = Arc::new(self.attribution(caller, BATCHES, &demand, of_request, None));
        // A batch is one request to rates, and takes nothing of those of tokens.
        let rates = rate_headers(&self.guard.pace(&nothing).await?);
        self.guard.may_begin_job(&caller.key.id)?;
        let file = self.batch_file(rules, caller, &asked.input_file_id).await?;
        well_formed(&file, &asked.endpoint)?;
        let (named, lines): (Vec<ObjectReference>, Vec<u64>) = file.named().into_iter().unzip();
        let reached = self.check_named(&named, Named::InBody, &Self::reach(rules, caller)).await;
        reached.map_err(|refusal| refusal.of_line_that_names(&named, &lines))?;
        let held = self.hold_groups(rules, head, (caller, &tags, max_cost), &file.groups).await;
        let groups = match held {
            // Its text has fewer tokens than bytes.
            Err(Refusal::Denied(denial, _)) if !file.is_counted && !is_hopeless(&denial) => {
                let of = ObjectReference { kind: ObjectKind::File, id: asked.input_file_id };
                let priced = (Pricing::of(rules, self.guard.clock().now_s()), Depth::Tokens);
                let counted = self.scan_at_upstream(rules, caller, &of, priced).await?;
                let counted = counted.ok_or_else(|| Refusal::NoBatchFile(bounded(&of.id)))?;
                well_formed(&counted, &asked.endpoint)?;
                self.hold_groups(rules, head, (caller, &tags, max_cost), &counted.groups).await?
            }
            held => held?,
        };
        let free = if groups.is_empty() {
            let request = ReserveRequest::new(nothing, Bound::default());
            let permit = self.permit(rules, &head.headers, caller);
            Some(permit.reserve(request, rules.admit.hold_wait).await?)
        } else {
            None
        };
        Ok(Holds { groups, free, rates })
    }

    /// Holds what the lines of each model may cost, or nothing.
    async fn hold_groups(
        &self,
        rules: &Rules,
        head: &request::Parts,
        (caller, tags, max_cost): (&Caller, &BTreeMap<String, String>, Option<Money>),
        groups: &[Group],
    ) -> Result<Vec<(Reservation, BatchTerms)>, Refusal> {
        within_cap(groups, max_cost)?;
        let mut holds = Vec::new();
        let models: Vec<String> = groups.iter().map(|group| group.model.clone()).collect();
        for (place, group) in groups.iter().enumerate() {
            let held = self.hold_group(rules, head, (caller, tags), group).await;
            let reservation =
                held.map_err(|refusal| if place > 0 { refusal.beside_own_holds() } else { refusal })?;
            let is_own = !caller.key.pass_through;
            let (models, group) = (models.clone(), group.clone());
            let terms = BatchTerms { is_own, request_id: None, place, models, group };
            holds.push((reservation, terms));
        }
        Ok(holds)
    }

    /// What the lines of a file cost: as a scan has found when it was uploaded, or finds now.
    async fn batch_file(&self, rules: &Rules, caller: &Caller, id: &str) -> Result<BatchFile, Refusal> {
        let of = ObjectReference { kind: ObjectKind::File, id: id.to_owned() };
        let unavailable = |_| Refusal::LedgerUnavailable;
        let missing = || Refusal::NoBatchFile(bounded(id));
        let owners = self.guard.owners(of.kind, vec![of.id.clone()]).await.map_err(unavailable)?;
        let owner = owners.into_iter().next().flatten();
        let is_reached = match (Self::reach(rules, caller), &owner) {
            (Reach::Project(project), Some(owner)) => project == *owner,
            (Reach::Project(_), None) => rules.fetch_batch_files,
            (Reach::All, known) => known.is_some() || rules.fetch_batch_files,
        };
        if !is_reached {
            return Err(missing());
        }
        let pricing = Pricing::of(rules, self.guard.clock().now_s());
        let known = self.guard.batch_input(of.clone()).await.map_err(unavailable)?;
        let known = known.as_deref().and_then(BatchFile::read).filter(|file| file.is_priced_by(&pricing));
        if let Some(file) = known {
            return Ok(file);
        }
        let scanned = self.scan_at_upstream(rules, caller, &of, (pricing, Depth::Bytes)).await?;
        scanned.ok_or_else(missing)
    }

    /// Holds what the lines of one model may cost.
    async fn hold_group(
        &self,
        rules: &Rules,
        head: &request::Parts,
        (caller, tags): (&Caller, &BTreeMap<String, String>),
        group: &Group,
    ) -> Result<Reservation, Refusal> {
        let now_s = self.guard.clock().now_s();
        let demand = demand(group);
        let priced = rules.sheet.price_of(&demand.model, now_s, rules.unknown_model);
        let allowed = self.check_models(rules, caller, &demand, priced.as_deref());
        allowed.map_err(|refusal| refusal.of_line(group.first_line))?;
        let (tags, of_several) = tags_of_lines(rules, head, tags, group);
        let attribution = self.attribution(caller, BATCHES, &demand, tags, priced.as_deref());
        self.refuse_several_users(&attribution, group)?;
        self.refuse_several_values(&attribution, &of_several)?;
        let standing = self.guard.standing(&attribution, None);
        models::refuse_unknown(rules, &demand, &standing)?;
        if let Some(line) = group.open_line.filter(|_| standing.is_capped()) {
            let message = format!(
                "Line {line} of the file does not bound its hosted tool calls, and nothing can be written into a file. Set \
                 max_tool_calls in it, or send it as a request of its own."
            );
            return Err(Refusal::FieldNotAllowed(message, Some("input_file_id")));
        }
        let is_priced = priced.is_some();
        let prices = models::prices(rules, &demand, priced, standing.left, now_s);
        prices.map_err(|refusal| refusal.of_line(group.first_line))?;
        let bound = Bound::from(group.bound);
        if bound.cost > COST_MAX {
            let message = "The most that this batch can cost is too large; send fewer lines at a time.";
            return Err(Refusal::Invalid(message.to_owned(), Some("input_file_id")));
        }
        let request = ReserveRequest {
            is_priced,
            tier: Tier::Batch,
            price_version: Arc::clone(rules.sheet.version()),
            ..ReserveRequest::new(Arc::new(attribution), bound)
        };
        let permit = self.permit(rules, &head.headers, caller);
        let reserved = permit.reserve(request, rules.admit.hold_wait).await;
        let reservation = reserved.map_err(|refusal| refusal.with_levers(Levers::BATCH))?;
        if !is_priced {
            self.guard.metrics().unpriced();
        }
        Ok(reservation)
    }

    /// Refuses lines for several users where a limit counts each by itself.
    fn refuse_several_users(&self, of: &Attribution, group: &Group) -> Result<(), Refusal> {
        if group.end_user != FieldOfLines::Several {
            return Ok(());
        }
        let of_a_user = Attribution { end_user: Some("user".into()), ..of.clone() };
        self.refuse_capped(&of_a_user, &Per::User, "are for several users", "user")
    }

    /// Refuses lines with several values of a tag where a limit counts each by itself.
    fn refuse_several_values(&self, of: &Attribution, tags: &[String]) -> Result<(), Refusal> {
        for tag in tags {
            let mut of_a_value = of.clone();
            Arc::make_mut(&mut of_a_value.tags).insert(tag.clone(), "value".to_owned());
            let what = format!("have several values of the tag \"{tag}\"");
            self.refuse_capped(&of_a_value, &Per::Tag(tag.as_str().into()), &what, "value")?;
        }
        Ok(())
    }

    /// Refuses a batch that a limit would count in parts, each by itself.
    fn refuse_capped(&self, of: &Attribution, per: &Per, what: &str, part: &str) -> Result<(), Refusal> {
        let caps = |limit: &Limit| limit.per == *per && limit.mode == Mode::Enforce && limit.hard.is_some();
        let Some((limit, _)) = self.guard.matching(of).into_iter().find(|(limit, _)| caps(limit)) else {
            return Ok(());
        };
        let message = format!(
            "The lines of this batch {what}, and limit \"{}\" counts each by itself. Make a batch for each {part}.",
            limit.name
        );
        Err(Refusal::Invalid(message, Some("input_file_id")))
    }
}

/// The tags of the lines of one model, and those of which the lines have several values.
fn tags_of_lines(
    rules: &Rules,
    head: &request::Parts,
    own: &BTreeMap<String, String>,
    group: &Group,
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut several = Vec::new();
    let tags =
        rules.tags.tags_by(own.clone(), &head.headers, |tag, source| match group.labels.field(source) {
            FieldOfLines::None => None,
            FieldOfLines::One(value) => Some(Some(value.clone())),
            FieldOfLines::Several => {
                several.push(tag.to_owned());
                Some(None)
            }
        });
    (tags, several)
}

/// Refuses a file that makes no batch for an endpoint.
fn well_formed(file: &BatchFile, endpoint: &str) -> Result<(), Refusal> {
    let wrong = |message: String| Err(Refusal::Invalid(message, Some("input_file_id")));
    if let Some(Fault { line, why, is_not_allowed }) = &file.fault {
        let message = format!("Line {line} of the file can't be priced: {why}.");
        let refusal = if *is_not_allowed { Refusal::FieldNotAllowed } else { Refusal::Invalid };
        return Err(refusal(message, Some("input_file_id")));
    }
    if file.lines == 0 {
        return wrong("The file has no lines.".to_owned());
    }
    if let Some(line) = file.free_line.filter(|_| endpoint != MODERATIONS) {
        let shown = bounded(endpoint);
        return wrong(format!("Line {line} of the file calls {MODERATIONS}, and the batch is for {shown}."));
    }
    // Upstream takes no other, and the output is read as answers of this endpoint.
    let other = file.groups.iter().find(|group| group.operation() != endpoint);
    other.map_or(Ok(()), |group| {
        let (line, url) = (group.first_line, group.operation());
        wrong(format!("Line {line} of the file calls {url}, and the batch is for {}.", bounded(endpoint)))
    })
}

/// The part of a request that rules and limits ask for, as lines of one model have it.
fn demand(group: &Group) -> Demand {
    let end_user = match &group.end_user {
        FieldOfLines::One(user) => Some(user.clone()),
        FieldOfLines::None | FieldOfLines::Several => None,
    };
    let (model, svg_model) = (group.model.clone(), group.image_model.clone());
    Demand { model, svg_model, end_user, tier: Some(Tier::Batch), ..Demand::default() }
}

/// Refuses a batch that may cost more than its client allows.
fn within_cap(groups: &[Group], cap: Option<Money>) -> Result<(), Refusal> {
    let costs = groups.iter().map(|group| Bound::from(group.bound).cost.nano());
    let needed = Money::from_nano(costs.fold(0, i64::saturating_add));
    match cap.filter(|cap| needed > *cap) {
        None => Ok(()),
        Some(cap) => Err(Refusal::Denied(Denial::OverClientCap { cap, needed }, Levers::BATCH)),
    }
}

/// Has upstream make a batch, and follows it.
async fn make(
    guard: &Arc<Guard>,
    upstream: &Upstream,
    outgoing: Outgoing,
    mut holds: Holds,
    caller: &Caller,
    mut in_flight: InFlight,
) -> Result<Response<Answer>, Failed> {
    for (reservation, _) in &mut holds.groups {
        reservation.mark_sent();
    }
    let answer = match answered(outgoing.send(upstream), &mut in_flight).await {
        Ok(answer) => answer,
        Err(error) if error.sent => {
            holds.assume(&Exchange::default(), "the answer to a batch was lost");
            return Err((Refusal::Upstream(NoAnswer::of(&error, Billed::Perhaps)), in_flight));
        }
        Err(error) => {
            holds.release(&Exchange::default());
            return Err((Refusal::Upstream(NoAnswer::of(&error, Billed::No)), in_flight));
        }
    };
    let exchange = Exchange::of(answer.status().as_u16(), answer.headers());
    in_flight.status = answer.status().as_u16();
    let (mut head, bytes) = match read(answer).await {
        Ok(read) => read,
        Err(refusal) => {
            holds.assume(&exchange, "the answer to a batch was lost");
            return Err((refusal, in_flight));
        }
    };
    head.headers.extend(std::mem::take(&mut holds.rates));
    let made = Batch::read(&bytes).filter(|_| head.status.is_success());
    let is_refused = head.status.is_client_error()
        || (head.status.is_server_error() && usage::is_error_envelope(&bytes))
        || made.as_ref().is_some_and(|batch| batch.state == BatchState::Refused);
    if is_refused {
        holds.release(&exchange);
    } else if let Some(batch) = &made {
        let known = made_by(&caller.key, guard.clock().now_s());
        let of = ObjectReference { kind: ObjectKind::Batch, id: batch.id.clone() };
        let written = guard.learn_objects(vec![put(of, known)]);
        tokio::join!(holds.follow(guard, &batch.id, &exchange), guard.objects_written(written));
    } else {
        holds.assume(&exchange, "an answer to a batch that names none");
    }
    let outcome = if head.status.is_success() { "job" } else { "upstream_error" };
    in_flight.ended(outcome);
    Ok(Response::from_parts(head, Answer::whole(bytes)))
}

/// An answer, read whole, with the headers that a client gets.
async fn read(answer: Response<AnswerBody>) -> Result<(http::response::Parts, Bytes), Refusal> {
    let (mut head, bytes) = whole(answer).await?;
    headers::to_client(&mut head.headers);
    Ok((head, bytes))
}
