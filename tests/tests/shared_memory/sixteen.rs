//! Two servers, one database, sixteen conversations; one server is killed and the database restarts meanwhile.
//!
//! `CART_SHARED_MODEL` names another model than the small one of the tests, `CART_SHARED_TURNS` how often each conversation
//! is told something; with `--nocapture` the figures are printed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use cart_tests::{Database, fixture};
use serde_json::Value;

use crate::servers::{long_term, serve, telling, wait_until, with_agent};

const CONVERSATIONS: usize = 16;

/// What the conversations heard.
#[derive(Default)]
struct Heard {
    /// Offers with what they say, and whether their commit was acknowledged.
    offers: Mutex<BTreeMap<String, (String, bool)>>,
    answers: AtomicU64,
    unanswered: AtomicU64,
    /// Answers that said that the database is away.
    without: AtomicU64,
    milliseconds: AtomicU64,
    done: AtomicBool,
}

impl Heard {
    fn answer(&self, body: &str, took: Duration) {
        let answer: Value = serde_json::from_str(body).unwrap();
        let used = &answer["cart"]["memory"]["long_term"];
        let offers = used["offers"].as_array().unwrap_or_else(|| panic!("{body}"));
        let mut heard = self.offers.lock().unwrap();
        for offer in offers {
            let text = |name: &str| offer[name].as_str().unwrap().to_owned();
            let settled = &offer["settlement"];
            assert!(settled.is_null() || !settled["into"].is_null(), "{settled}");
            heard.insert(text("offer"), (text("text"), !settled.is_null()));
        }
        drop(heard);
        self.answers.fetch_add(1, Ordering::SeqCst);
        self.without.fetch_add(u64::from(used["reachable"] == false), Ordering::SeqCst);
        self.milliseconds.fetch_add(took.as_millis() as u64, Ordering::SeqCst);
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }
}

/// Tells a conversation one thing after the other, until everything has been tried that is to be tried.
fn talk(name: usize, url: &RwLock<String>, turns: u64, heard: &Heard) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_mins(1)))
        .build()
        .into();
    let mut turn = 0;
    while turn < turns || !heard.done.load(Ordering::SeqCst) {
        turn += 1;
        if turn > turns {
            // A quick model would fill the database while it is away.
            std::thread::sleep(Duration::from_millis(100));
        }
        let text =
            format!("On day {turn} conversation {name} counted {} boats.", turn * 7919 % 1009);
        let body = telling(&format!("conversation {name}"), &text);
        let begun = Instant::now();
        let path = format!("{}/v1/completions", url.read().unwrap());
        let answer = agent.post(path).send_json(&body).ok();
        let whole = answer.and_then(|mut answer| {
            let body = answer.body_mut().read_to_string().ok()?;
            (answer.status() == 200).then_some(body)
        });
        if let Some(body) = whole {
            heard.answer(&body, begun.elapsed());
        } else {
            heard.unanswered.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn every_acknowledged_consolidation_of_sixteen_conversations_is_there_afterwards() {
    let Some(mut database) = Database::start() else { return };
    let model = std::env::var("CART_SHARED_MODEL").unwrap_or_else(|_| fixture("tiny"));
    let turns = std::env::var("CART_SHARED_TURNS").map_or(20, |turns| turns.parse().unwrap());
    let (here, there) = (with_agent(&model), with_agent(&model));
    let (one, two) = (serve(&here, &database), serve(&there, &database));
    let urls = [RwLock::new(one.url().to_owned()), RwLock::new(two.url().to_owned())];
    let heard = Heard::default();
    let begun = Instant::now();
    let third = CONVERSATIONS as u64 * turns / 3;
    let (two, away, recovered) = std::thread::scope(|scope| {
        for name in 0..CONVERSATIONS {
            let (url, heard) = (&urls[name % 2], &heard);
            scope.spawn(move || talk(name, url, turns, heard));
        }
        wait_until("the first third", || heard.answers() >= third);
        two.kill();
        let two = serve(&there, &database);
        two.url().clone_into(&mut urls[1].write().unwrap());
        let recovered = long_term(&two)["recovered"].as_u64().unwrap();
        wait_until("the second third", || heard.answers() >= 2 * third);
        database.kill();
        let since = Instant::now();
        let until = heard.without.load(Ordering::SeqCst) + 2 * CONVERSATIONS as u64;
        wait_until("answers without the database", || {
            heard.without.load(Ordering::SeqCst) >= until
        });
        database.resume();
        let away = since.elapsed();
        let before = heard.answers();
        wait_until("answers afterwards", || heard.answers() >= before + 2 * CONVERSATIONS as u64);
        heard.done.store(true, Ordering::SeqCst);
        (two, away, recovered)
    });
    let took = begun.elapsed();
    for server in [&one, &two] {
        wait_until("the last commit", || long_term(server)["pending"] == 0);
    }
    let (first, second) = (long_term(&one), long_term(&two));
    assert!(one.stop().success() && two.stop().success());

    let entries = database.query(
        "SELECT (state->>'sum_count') || ' ' || (state->>'text') FROM cart_ltm_slots WHERE state IS NOT NULL",
    );
    let mut counts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in entries.lines() {
        let (count, text) = line.split_once(' ').unwrap();
        counts.entry(text).or_default().push(count);
    }
    let noted = database.query("SELECT encode(offer, 'hex') FROM cart_ltm_offers");
    let noted: BTreeSet<&str> = noted.lines().collect();
    let offers = heard.offers.into_inner().unwrap();
    let (mut acknowledged, mut late) = (0, 0);
    for (offer, (text, was_acknowledged)) in &offers {
        assert_eq!(counts.get(text.as_str()), Some(&vec!["1"]), "{text} ({was_acknowledged})");
        assert!(noted.contains(offer.as_str()), "{text}");
        if *was_acknowledged { acknowledged += 1 } else { late += 1 }
    }
    let retries = first["retries"].as_u64().unwrap() + second["retries"].as_u64().unwrap();
    println!(
        "{CONVERSATIONS} conversations on 2 servers, {:.1} s: {} answers ({:.0} ms in the mean), {} requests cut off by the kill\n\
         {acknowledged} consolidations acknowledged, {acknowledged} found once each\n\
         {late} offered while they could not be committed in time, {late} found once each; {recovered} from the journal of the killed server\n\
         {} entries; {:.1} s without the database, {} answers meanwhile; {retries} attempts to commit failed and were repeated",
        took.as_secs_f64(),
        heard.answers.load(Ordering::SeqCst),
        heard.milliseconds.load(Ordering::SeqCst) as f64
            / heard.answers.load(Ordering::SeqCst) as f64,
        heard.unanswered.load(Ordering::SeqCst),
        counts.len(),
        away.as_secs_f64(),
        heard.without.load(Ordering::SeqCst),
    );
    assert!(acknowledged > CONVERSATIONS && late > 0 && retries > 0);
}
