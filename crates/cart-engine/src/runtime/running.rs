//! A stream that has a place in the token loop.

use std::sync::Arc;

use super::GenerationRequest;
use super::resident::Resident;
use super::shared::Ticket;
use super::stream::{EventSink, StreamError, StreamEvent, StreamSummary};
use crate::{FinishReason, GenerateEvent, Session, StepError, StepEvent};

/// A stream that has a place in the token loop, with the generation that it pins.
pub(super) struct Running {
    pub(super) resident: Arc<Resident>,
    pub(super) session: Session,
    sink: Box<dyn EventSink>,
    /// Where it goes as soon as it stands between two characters.
    bound_for: Option<Arc<Resident>>,
    crossing: Crossing,
    prompt_tokens: usize,
    completion_tokens: usize,
    moved: usize,
    end: Option<End>,
    /// Given back when the stream has ended.
    _ticket: Ticket,
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
        request: &GenerationRequest,
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
                    resident,
                    session,
                    sink,
                    bound_for: None,
                    crossing: Crossing::Done,
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

    /// Whether its next step is on this generation.
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

    /// Takes in what a step did, and says how many tokens it gave.
    pub(super) fn absorb(&mut self, stepped: Result<StepEvent, StepError>) -> u64 {
        let before = self.completion_tokens;
        match stepped {
            Ok(StepEvent::Prefilled { .. }) => {}
            Ok(StepEvent::Generated(event)) => self.generated(event),
            Err(error) => self.end = Some(End::Failed(StreamError::Step(error))),
        }
        if self.sink.is_closed() {
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

    /// Ends the stream from outside.
    pub(super) fn cut_off(&mut self) {
        self.end = Some(End::Failed(StreamError::ShuttingDown));
    }

    /// Says goodbye. What is left to be written to memory is written now.
    pub(super) fn close(mut self) -> Outcome {
        match self.end.take() {
            Some(End::Finished(finish)) => self.finish(finish),
            Some(End::Failed(error)) => {
                self.sink.deliver(StreamEvent::Failed(error));
                Outcome::Failed
            }
            Some(End::Cancelled) | None => Outcome::Cancelled,
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
        self.resident = Arc::clone(to);
        self.sink.deliver(StreamEvent::Moved { resident: Arc::clone(to) });
    }

    fn finish(mut self, finish: FinishReason) -> Outcome {
        match self.session.finish(self.resident.agent()) {
            Ok(generation) => {
                self.sink.deliver(StreamEvent::Done(StreamSummary {
                    prompt_tokens: self.prompt_tokens,
                    completion_tokens: self.completion_tokens,
                    finish,
                    moved: self.moved,
                    memory: generation.memory,
                }));
                Outcome::Finished
            }
            Err(error) => {
                self.sink.deliver(StreamEvent::Failed(StreamError::Step(error)));
                Outcome::Failed
            }
        }
    }
}
