//! What a transaction leaves, whoever else is there and whatever breaks.

use std::path::PathBuf;

use cart_engine::long_term::{LongTerm, LongTermError, LongTermSource as _, OfferId, PendingOffer};
use cart_format::SpaceId;
use cart_memory::{
    MemoryConfig, Normalization, Observation, Settlement, Slot, StoreKind, UnifiedMemory,
};
use cart_server::postgres::{Address, DatabaseError, Postgres, PostgresSource};

use crate::cutter::{Breaks, Cutter};
use crate::database::Database;

const DIM: usize = 8;

fn seed(space: &[u8]) -> UnifiedMemory {
    let config = MemoryConfig {
        observer_interval: 1,
        consolidate_threshold: 0.0,
        ltm_slots: 512,
        prune_interval: 1 << 40,
        ..MemoryConfig::default()
    };
    let normalization = Normalization::identity(DIM).unwrap();
    UnifiedMemory::new(SpaceId::of(space), normalization, config).unwrap()
}

fn source(url: &str, may_begin: bool) -> PostgresSource {
    let address = Address::new(url, None).unwrap();
    PostgresSource { address, journal: PathBuf::new(), may_begin, draw: || 0 }
}

fn open(url: &str) -> Box<dyn LongTerm> {
    source(url, false).open(&seed(b"space")).unwrap()
}

/// What a conversation offers that says these texts.
fn offers(shared: &UnifiedMemory, process: u64, first: u64, texts: &[String]) -> Vec<PendingOffer> {
    let mut conversation = shared.conversation();
    for text in texts {
        let mut key = vec![0.25_f32; DIM];
        text.bytes().enumerate().for_each(|(at, byte)| key[at % DIM] += f32::from(byte) / 64.0);
        let token_ids: Vec<u32> = text.bytes().map(u32::from).collect();
        let seen = Observation {
            token_keys: key.repeat(token_ids.len()),
            key,
            token_ids,
            text: text.clone(),
            surprise: Vec::new(),
            energy: 0.75,
            source: "test".to_owned(),
        };
        conversation.observe(conversation.now() + 1, &seen).unwrap();
    }
    let offered = conversation.take_offers();
    assert_eq!(offered.len(), texts.len());
    let counted = (first..).zip(offered);
    counted
        .map(|(count, offered)| PendingOffer { id: OfferId::new(process, count), offered })
        .collect()
}

/// The entries of the database that say this.
fn entries(url: &str, text: &str) -> Vec<Slot> {
    let read = Postgres::read(&Address::new(url, None).unwrap(), SpaceId::of(b"space")).unwrap();
    let slots = read.memory().slots().filter(|(at, _)| at.store == StoreKind::Ltm);
    slots.filter(|(_, slot)| slot.value.text == text).map(|(_, slot)| slot.clone()).collect()
}

#[test]
fn servers_on_one_database_lose_no_update() {
    const SERVERS: u64 = 4;
    const TURNS: u64 = 20;
    let Some(database) = Database::start() else { return };
    let url = database.url();
    std::thread::scope(|scope| {
        for server in 0..SERVERS {
            let url = &url;
            scope.spawn(move || {
                let mut handle = open(url);
                for turn in 0..TURNS {
                    let texts = [format!("common {}", turn % 5), format!("own {server}.{turn}")];
                    let memory = handle.memory().unwrap();
                    let settled = handle.consolidate(&offers(&memory, server, 2 * turn, &texts));
                    assert!(settled.unwrap().iter().all(|settled| settled.entry().is_some()));
                }
            });
        }
    });
    for common in 0..5 {
        let found = entries(&url, &format!("common {common}"));
        assert_eq!(found.len(), 1);
        let told = SERVERS * TURNS / 5;
        assert_eq!((found[0].count, found[0].statistics.count), (told, told));
        assert_eq!(found[0].statistics.weight, told as f64 * 0.75);
    }
    for server in 0..SERVERS {
        for turn in 0..TURNS {
            assert_eq!(entries(&url, &format!("own {server}.{turn}"))[0].count, 1);
        }
    }
    assert_eq!(
        database.query("SELECT count(*) FROM cart_ltm_offers"),
        (2 * SERVERS * TURNS).to_string()
    );
}

#[test]
fn a_copy_follows_what_others_do() {
    let Some(database) = Database::start() else { return };
    let (mut one, mut two) = (open(&database.url()), open(&database.url()));
    let texts = [String::from("first"), String::from("second \u{0} with a zero")];
    one.consolidate(&offers(&one.memory().unwrap(), 1, 0, &texts)).unwrap();
    assert_eq!(two.memory().unwrap().report().ltm.slots, 0);
    two.refresh().unwrap();
    let id = |handle: &dyn LongTerm| handle.memory().unwrap().snapshot().id();
    assert_eq!(id(one.as_ref()), id(two.as_ref()));
    let read: Vec<_> = two.memory().unwrap().slots().map(|(at, _)| at.id).collect();
    two.note_reads(&read).unwrap();
    one.refresh().unwrap();
    assert_eq!(id(one.as_ref()), id(two.as_ref()));
    let fresh = open(&database.url());
    assert_eq!(id(fresh.as_ref()), id(two.as_ref()));
}

#[test]
fn an_offer_that_is_made_again_is_taken_once() {
    let Some(database) = Database::start() else { return };
    let (mut one, mut two) = (open(&database.url()), open(&database.url()));
    let texts = [String::from("once")];
    let offers = offers(&one.memory().unwrap(), 1, 0, &texts);
    let settled = one.consolidate(&offers).unwrap();
    assert!(matches!(settled[..], [Settlement::Inserted { .. }]));
    assert_eq!(one.consolidate(&offers).unwrap(), settled);
    assert_eq!(two.consolidate(&offers).unwrap(), settled);
    assert_eq!(entries(&database.url(), "once")[0].count, 1);
}

#[test]
fn a_database_of_other_spaces_is_refused() {
    let Some(database) = Database::start() else { return };
    let url = database.url();
    let mut one = open(&url);
    one.consolidate(&offers(&one.memory().unwrap(), 1, 0, &["here".to_owned()])).unwrap();
    let refused = source(&url, false).open(&seed(b"other")).err().unwrap();
    assert!(refused.to_string().contains("none of space"), "{refused}");
    let address = Address::new(&url, None).unwrap();
    let missing = Postgres::read(&address, SpaceId::of(b"other")).unwrap_err();
    assert!(matches!(missing, DatabaseError::NoSpace { .. }), "{missing}");
    let other = source(&url, true).open(&seed(b"other")).unwrap();
    assert_eq!(other.memory().unwrap().report().ltm.slots, 0);
    assert_eq!(entries(&url, "here").len(), 1);
    // Once it is there it need not be begun.
    source(&url, false).open(&seed(b"other")).unwrap();
}

#[test]
fn a_seed_begins_a_space_and_is_passed_over_later() {
    let Some(database) = Database::start() else { return };
    let mut seeded = seed(b"space");
    for offer in offers(&seeded, 1, 0, &["a".to_owned(), "b".to_owned()]) {
        seeded.accept(&offer.offered).unwrap();
    }
    let first = source(&database.url(), false).open(&seeded).unwrap();
    assert_eq!(first.memory().unwrap().snapshot().id(), seeded.snapshot().id());
    let second = open(&database.url());
    assert_eq!(second.memory().unwrap().snapshot().id(), seeded.snapshot().id());
}

#[test]
fn keys_are_vectors_where_the_database_has_them_and_the_nearest_are_the_same() {
    let Some(database) = Database::start() else { return };
    let mut handle = open(&database.url());
    let texts: Vec<String> = (0..12).map(|n| format!("text {}", n * n * 37)).collect();
    handle.consolidate(&offers(&handle.memory().unwrap(), 1, 0, &texts)).unwrap();
    let address = Address::new(&database.url(), None).unwrap();
    let mut read = Postgres::read(&address, SpaceId::of(b"space")).unwrap();
    let available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'";
    let expected = if database.query(available) == "1" { "vector" } else { "real[]" };
    assert_eq!(read.key_type(), expected);
    let query: Vec<f32> = (0..DIM).map(|at| (at as f32).sin()).collect();
    let near = read.nearest(&query, 5).unwrap();
    let reflected = read.memory().novelty(&query).unwrap();
    assert_eq!(near.len(), 5);
    assert_eq!(near[0].0, reflected.nearest.unwrap().id);
    assert!((near[0].1 - f64::from(1.0 - reflected.novelty)).abs() < 1e-5, "{near:?}");
    assert!(near.is_sorted_by(|a, b| a.1 >= b.1));
}

#[test]
fn a_database_that_restarts_is_used_again() {
    let Some(mut database) = Database::start() else { return };
    let mut handle = open(&database.url());
    for (turn, stop) in [Database::stop, Database::kill].into_iter().enumerate() {
        let text = format!("while it is away {turn}");
        let offers = offers(&handle.memory().unwrap(), 1, turn as u64, std::slice::from_ref(&text));
        stop(&mut database);
        let away = handle.consolidate(&offers).unwrap_err();
        assert!(matches!(away, LongTermError::Away { .. }), "{away}");
        assert!(matches!(handle.refresh(), Err(LongTermError::Away { .. })));
        database.resume();
        handle.consolidate(&offers).unwrap();
        assert_eq!(entries(&database.url(), &text)[0].count, 1);
    }
}

#[test]
fn a_connection_cut_at_any_message_loses_nothing_and_doubles_nothing() {
    let Some(database) = Database::start() else { return };
    open(&database.url());
    for breaks in [Breaks::Before, Breaks::After] {
        let cutter = Cutter::new(database.port(), breaks);
        let mut handle = open(&Database::url_at(cutter.port));
        let process = 10 + breaks as u64;
        let mut cuts = 0;
        for message in 0.. {
            let text = format!("{breaks:?} {message}");
            let texts = ["said every time".to_owned(), text.clone()];
            let offers = offers(&handle.memory().unwrap(), process, 2 * message as u64, &texts);
            cutter.cut_after(message);
            let first = handle.consolidate(&offers);
            let was_cut = cutter.heal();
            if let Err(error) = &first {
                assert!(matches!(error, LongTermError::Away { .. }), "{error}");
                assert!(was_cut, "{error}");
                handle.consolidate(&offers).unwrap();
            }
            let found = entries(&database.url(), &text);
            assert_eq!((found.len(), found[0].count), (1, 1), "{text}");
            cuts += u64::from(was_cut);
            if !was_cut {
                break;
            }
        }
        assert!(cuts >= 8, "a transaction has only {cuts} messages");
        println!("{breaks:?}: cut at each of {cuts} messages");
    }
    let said = &entries(&database.url(), "said every time")[0];
    let offered = database.query("SELECT count(*) FROM cart_ltm_offers");
    assert_eq!((2 * said.count).to_string(), offered);
}

#[test]
fn the_spec_lists_the_tables() {
    let Some(database) = Database::start() else { return };
    open(&database.url());
    let columns = database.query(
        "SELECT relname, attname, format_type(atttypid, NULL) FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
         WHERE relname LIKE 'cart\\_ltm\\_%' AND relkind = 'r' AND attnum > 0
         ORDER BY relname = 'cart_ltm_offers', relname = 'cart_ltm_slots', attnum",
    );
    let page = include_str!("../../../../spec/71-shared-memory.md");
    let table = page.split("<!-- tables").nth(1).unwrap().split("<!-- /tables").next().unwrap();
    let listed = table.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        [1, 2, 3].map(|cell| cells[cell].replace('`', "")).join("|")
    });
    let listed = listed.collect::<Vec<_>>().join("\n");
    let keys = if columns.contains("|key|vector") { "vector" } else { "real[]" };
    assert_eq!(listed.replace("vector or real[]", keys), columns);
}
