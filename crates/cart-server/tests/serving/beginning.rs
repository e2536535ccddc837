//! How streams get their places.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cart_engine::runtime::{EventSink, GenerationRequest, Runtime, RuntimeOptions, StreamEvent};
use cart_engine::{GenerateOptions, MemoryOptions, PrefixOptions};

use crate::given::{raw, shelf, told};

/// What streams heard, in the order in which they did.
type Heard = Arc<Mutex<Vec<(usize, &'static str)>>>;

struct Listener {
    stream: usize,
    heard: Heard,
}

impl EventSink for Listener {
    fn deliver(&mut self, event: StreamEvent) {
        let what = match event {
            StreamEvent::Started { .. } => "started",
            StreamEvent::Token(_) => "token",
            StreamEvent::Done(_) => "done",
            StreamEvent::Moved { .. } | StreamEvent::Failed(_) => "failed",
        };
        self.heard.lock().unwrap().push((self.stream, what));
    }

    fn is_closed(&self) -> bool {
        false
    }
}

#[test]
fn recall_of_those_that_begin_holds_up_a_running_stream_for_one_chunk_at_a_time() {
    const STREAMS: usize = 9;
    let shelf = shelf();
    let one = shelf.tiny("one");
    let manifest = told(&shelf, &one);
    shelf.recommit("again", &one, |commit| commit.manifest = manifest);
    let runtime = Runtime::start("again", shelf.open("again"), RuntimeOptions::default()).unwrap();
    let heard = Heard::default();
    let submit = |stream, prompt: &str, memory, max_tokens| {
        let options = GenerateOptions {
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            memory,
            ..GenerateOptions::default()
        };
        let request = GenerationRequest { prompt: raw(prompt), options };
        let sink = Listener { stream, heard: Arc::clone(&heard) };
        runtime.handle().submit(request, Box::new(sink)).unwrap();
    };
    let wait_for = |stream, what| {
        let began = Instant::now();
        while !heard.lock().unwrap().contains(&(stream, what)) {
            assert!(began.elapsed() < Duration::from_mins(2), "{what} of {stream} did not come");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    submit(0, "One day", MemoryOptions::default(), 400);
    wait_for(0, "token");
    // A query of more than half a chunk: two of them are as much as one step reads.
    let long = "Tom ate soup in the evening, and Mia sat in the barn. ".repeat(10);
    let prefix = Some(PrefixOptions { min_score: -1.0, ..PrefixOptions::default() });
    for stream in 1..STREAMS {
        let memory = MemoryOptions { prefix: prefix.clone(), ..MemoryOptions::read_only() };
        submit(stream, &long, memory, 2);
    }
    (1..STREAMS).for_each(|stream| wait_for(stream, "done"));
    let heard = heard.lock().unwrap();
    assert!(heard.iter().all(|(_, what)| *what != "failed"), "{heard:?}");
    let steps = heard.split(|event| *event == (0, "token"));
    let begun = steps.map(|events| events.iter().filter(|(_, what)| *what == "started").count());
    assert_eq!(begun.clone().sum::<usize>(), STREAMS);
    assert!(begun.max() <= Some(2), "{heard:?}");
}
