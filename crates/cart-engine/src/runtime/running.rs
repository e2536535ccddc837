//! A stream that has a place in the token loop.

use std::sync::Arc;

use super::GenerationRequest;
use super::resident::Resident;
use super::shared::Ticket;
use super::stream::{EventSink, StreamError, StreamEvent, StreamSummary};
use super::watch::CollapseOptions;
use super::watch::collapse::{Meter, Reading};
use crate::swap::InFlight;
use crate::{FinishReason, GenerateEvent, Session, StepError, StepEvent};

/// A stream that has a place in the token loop, with the generation that it pins.
pub(super) struct Running {
    pub(super) resident: Arc<Resident>,
    session: Session,
    request: Box<GenerationRequest>,
    sink: Box<dyn EventSink>,
    /// Where it goes as soon as it stands between two characters.
    bound_for: Option<Arc<Resident>>,
    crossing: Crossing,
    /// Where a watched generation gave it no numbers.
    stumbled: Option<usize>,
    judgement: Judgement,
    prompt_tokens: usize,
    completion_tokens: usize,
    moved: usize,
    end: Option<End>,
    /// Given back when the stream has ended.
    _ticket: Ticket,
}

/// What the watch knows of a stream on the generation that it runs on.
#[derive(Default)]
struct Judgement {
    /// Tokens of its text when it came there.
    since: usize,
    meter: Meter,
    last: Option<Reading>,
    is_counted: bool,
    is_suspected: bool,
}

/// Whether a swap is moving the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crossing {
    /// No, or it has given a token on the new generation.
    Done,
    /// It has yet to give a token there.
    UnderWay,
    /// The new generation would not take it after all, and the swap has not heard of that.
    TurnedBack,
}

/// How a stream ended.
#[derive(Debug)]
pub(super) enum End {
    Finished(FinishReason),
    Cancelled,
    Failed(StreamError),
}

/// How a stream ended, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Finished,
    Cancelled,
    Failed,
}

/// The last that a stream says.
pub(super) struct Goodbye {
    sink: Box<dyn EventSink>,
    event: Option<StreamEvent>,
}

/// What a move to another generation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It runs on the new generation, or will with the next whole character.
    Yes,
    /// The new generation can't take it, so it ends on the old one.
    No,
}

impl Running {
    /// Gives a request a place. `None` where it can't begin; its sink has been told then.
    pub(super) fn start(
        resident: &Arc<Resident>,
        request: Box<GenerationRequest>,
        mut sink: Box<dyn EventSink>,
        ticket: Ticket,
    ) -> Option<Self> {
        let agent = resident.agent();
        match Session::start(agent, &request.prompt, &request.options) {
            Ok(session) => {
                let prompt_tokens = session.prompt_ids().len();
                let resident = Arc::clone(resident);
                sink.deliver(StreamEvent::Started {
                    resident: Arc::clone(&resident),
                    prompt_tokens,
                });
                Some(Self {
                    judgement: Judgement { since: prompt_tokens, ..Judgement::default() },
                    resident,
                    session,
                    request,
                    sink,
                    bound_for: None,
                    crossing: Crossing::Done,
                    stumbled: None,
                    prompt_tokens,
                    completion_tokens: 0,
                    moved: 0,
                    end: None,
                    _ticket: ticket,
                })
            }
            Err(error) => {
                sink.deliver(StreamEvent::Failed(StreamError::Start(error)));
                None
            }
        }
    }

    /// Tokens that were read when it began, for recall.
    pub(super) fn read_first(&self) -> usize {
        self.session.read_first()
    }

    /// Whether it has ended, and reads what memory is still to be told with the next step.
    fn is_closing(&self) -> bool {
        let finished = matches!(self.end, Some(End::Finished(_)));
        finished && self.session.has_last_to_read(self.resident.agent())
    }

    /// Whether its next step is on this generation, its last one included, which memory alone has something of.
    pub(super) fn steps_on(&self, generation: u64) -> bool {
        let here = self.resident.generation() == generation;
        here && (self.end.is_none() || self.is_closing())
    }

    /// Whether nothing is left to be done for it but to say goodbye.
    pub(super) fn is_done(&self) -> bool {
        self.has_ended() && !self.is_closing()
    }

    /// Whether its next token is of this generation.
    pub(super) fn runs_on(&self, generation: u64) -> bool {
        self.end.is_none() && self.resident.generation() == generation
    }

    /// Whether it runs on this generation, or is on its way there.
    pub(super) fn needs(&self, generation: u64) -> bool {
        let bound = self.bound_for.as_ref().map(|to| to.generation());
        self.resident.generation() == generation || bound == Some(generation)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Its session, for the next step.
    ///
    /// * `watched`: whether the entropy of what tokens are drawn from is asked for
    pub(super) fn session(&mut self, watched: bool) -> &mut Session {
        self.session.measure_entropy(watched);
        &mut self.session
    }

    /// Takes in what a step did, and says how many tokens it gave.
    ///
    /// * `watched`: how the generation is watched, where it is
    pub(super) fn absorb(
        &mut self,
        stepped: Result<StepEvent, StepError>,
        watched: Option<&CollapseOptions>,
    ) -> u64 {
        let before = self.completion_tokens;
        let was_closing = self.has_ended();
        match stepped {
            Ok(StepEvent::Prefilled { .. }) => {}
            Ok(StepEvent::Generated(event)) => {
                self.judge(event.token, watched);
                self.generated(event);
            }
            // It waits for the watch, which takes it to the generation before.
            Err(StepError::NotFinite { position }) if watched.is_some() => {
                self.stumbled = Some(position);
                return 0;
            }
            Err(error) => self.end = Some(End::Failed(StreamError::Step(error))),
        }
        if self.sink.is_closed() && !was_closing {
            self.end = Some(End::Cancelled);
        }
        if self.end.is_none() && self.go_over() == Moved::No {
            self.crossing = Crossing::TurnedBack;
        }
        (self.completion_tokens - before) as u64
    }

    /// Sends the stream to another generation, at once or with the next whole character.
    pub(super) fn move_to(&mut self, to: &Arc<Resident>) -> Moved {
        self.bound_for = Some(Arc::clone(to));
        let moved = self.go_over();
        self.crossing = match moved {
            Moved::Yes => Crossing::UnderWay,
            Moved::No => Crossing::Done,
        };
        moved
    }

    /// Lets the stream go on at once with a generation of the same weights, keys and values kept. One that is on its way
    /// to another generation goes to this one instead, its text read again.
    pub(super) fn keep_on(&mut self, to: &Arc<Resident>) -> Moved {
        if self.bound_for.is_some() {
            return self.move_to(to);
        }
        // A stream of a generation before, with other weights, goes on where it is.
        if self.session.keep_on(self.resident.agent(), to.agent()).is_err() {
            return Moved::No;
        }
        self.arrive(to);
        self.crossing = Crossing::UnderWay;
        Moved::Yes
    }

    /// After how many tokens it was given no numbers by a watched generation.
    pub(super) fn stumbled_after(&self) -> Option<usize> {
        self.stumbled
    }

    /// Whether there are enough tokens to judge it, and whether it has collapsed; each is said once.
    pub(super) fn readings(&mut self) -> (bool, Option<Reading>) {
        let judgement = &mut self.judgement;
        let Some(last) = judgement.last else { return (false, None) };
        let judged = !std::mem::replace(&mut judgement.is_counted, true);
        let collapsed = last.collapsed && !judgement.is_suspected;
        judgement.is_suspected |= collapsed;
        (judged, collapsed.then_some(last))
    }

    /// A session on another generation with the text with which the stream came to its own, and how many tokens it has
    /// given there.
    pub(super) fn as_on(&self, other: &Resident) -> Option<(Session, usize)> {
        let since = self.judgement.since;
        let shadow = self.session.shadow(self.resident.agent(), other.agent(), since).ok()?;
        Some((shadow, self.session.position() - since))
    }

    /// Takes it from a generation that failed to the one before. One that got no numbers goes back to its last whole
    /// character, or begins anew where nothing was said yet.
    pub(super) fn rescue(&mut self, to: &Arc<Resident>, in_flight: InFlight) -> Moved {
        if self.has_ended() {
            return Moved::No;
        }
        let stumbled = self.stumbled.take();
        let moved = match stumbled {
            Some(_) if self.completion_tokens == 0 => self.begin_again(to),
            Some(_) => match self.session.go_back_to_boundary(self.resident.agent()) {
                Ok(()) => self.move_to(to),
                Err(_) => Moved::No,
            },
            None if in_flight == InFlight::Keep => self.keep_on(to),
            None => self.move_to(to),
        };
        if let Some(position) = stumbled.filter(|_| moved == Moved::No) {
            self.end = Some(End::Failed(StreamError::Step(StepError::NotFinite { position })));
        }
        moved
    }

    /// Whether a swap has moved it and it has yet to give a token on the new generation.
    pub(super) fn is_crossing(&self) -> bool {
        self.crossing == Crossing::UnderWay && self.end.is_none()
    }

    /// Says once that the new generation would not take it after all.
    pub(super) fn turned_back(&mut self) -> Option<()> {
        let turned_back = self.crossing == Crossing::TurnedBack;
        turned_back.then(|| self.crossing = Crossing::Done)
    }

    /// Whether the swap that moves it has ended it.
    pub(super) fn failed_in_crossing(&self) -> bool {
        self.crossing == Crossing::UnderWay
            && matches!(&self.end, Some(End::Failed(StreamError::Step(_))))
    }

    /// Ends the stream, unless it has ended, because another cartridge takes the place of its own.
    pub(super) fn abort(&mut self, name: &str) {
        if !self.has_ended() {
            self.end = Some(End::Failed(StreamError::Aborted { name: name.to_owned() }));
        }
    }

    /// Ends the stream from outside.
    pub(super) fn cut_off(&mut self) {
        self.end = Some(End::Failed(StreamError::ShuttingDown));
    }

    /// Ends it: what is left to be written to memory is written now. Gives what is still to be said, for when the state
    /// counts the end.
    pub(super) fn close(self) -> (Outcome, Goodbye) {
        let Self { session, resident, sink, end, prompt_tokens, completion_tokens, moved, .. } =
            self;
        let summary = |finish, memory| StreamSummary {
            prompt_tokens,
            completion_tokens,
            finish,
            moved,
            memory,
        };
        let (outcome, event) = match end {
            Some(End::Finished(finish)) => match session.finish(resident.agent()) {
                Ok(generation) => {
                    let summary = summary(finish, generation.memory);
                    (Outcome::Finished, Some(StreamEvent::Done(summary)))
                }
                Err(error) => {
                    (Outcome::Failed, Some(StreamEvent::Failed(StreamError::Step(error))))
                }
            },
            Some(End::Failed(error)) => (Outcome::Failed, Some(StreamEvent::Failed(error))),
            Some(End::Cancelled) | None => (Outcome::Cancelled, None),
        };
        (outcome, Goodbye { sink, event })
    }

    /// Begins on another generation as if it had come there.
    fn begin_again(&mut self, to: &Arc<Resident>) -> Moved {
        let GenerationRequest { prompt, options } = &*self.request;
        let Ok(session) = Session::start(to.agent(), prompt, options) else { return Moved::No };
        self.session = session;
        self.bound_for = None;
        self.arrive(to);
        self.crossing = Crossing::UnderWay;
        Moved::Yes
    }

    /// Looks at a token whose entropy was measured. Where an answer is held to a grammar, it says nothing of the model.
    fn judge(&mut self, token: u32, watched: Option<&CollapseOptions>) {
        let entropy = self.session.entropy().filter(|_| self.request.options.constraint.is_none());
        if let Some((options, entropy)) = watched.zip(entropy) {
            self.judgement.last = self.judgement.meter.take(token, entropy, options);
        }
    }

    fn generated(&mut self, event: GenerateEvent) {
        self.completion_tokens += 1;
        if self.bound_for.is_none() {
            self.crossing = Crossing::Done;
        }
        self.end = event.finished.map(End::Finished);
        self.sink.deliver(StreamEvent::Token(event));
    }

    /// Moves to where it is bound for, if it can be moved now.
    fn go_over(&mut self) -> Moved {
        let Some(to) = self.bound_for.take() else { return Moved::Yes };
        if to.generation() == self.resident.generation() {
            return Moved::Yes;
        }
        if !self.session.at_boundary() {
            self.bound_for = Some(to);
            return Moved::Yes;
        }
        // A stream that the new generation refuses goes on where it is.
        if self.session.move_to(self.resident.agent(), to.agent()).is_err() {
            return Moved::No;
        }
        self.arrive(&to);
        Moved::Yes
    }

    fn arrive(&mut self, to: &Arc<Resident>) {
        self.moved += 1;
        self.judgement = Judgement { since: self.session.position(), ..Judgement::default() };
        self.resident = Arc::clone(to);
        self.sink.deliver(StreamEvent::Moved { resident: Arc::clone(to) });
    }
}

impl Goodbye {
    pub(super) fn say(mut self) {
        if let Some(event) = self.event.take() {
            self.sink.deliver(event);
        }
    }
}
