//! What a record of the journal says.

use cart_memory::{Cause, Offered, SlotId, SlotRecord, UnifiedMemory};

use crate::long_term::{OfferId, PendingOffer};

/// A record.
#[expect(clippy::large_enum_variant, reason = "one at a time")]
pub(super) enum Entry {
    Offered(PendingOffer),
    Settled(OfferId),
}

const SETTLED: u8 = 0;
const OFFERED: u8 = 1;

/// * `space`: of the offer's vectors
pub(super) fn offered(space: &[u8; 32], offer: &PendingOffer) -> Vec<u8> {
    let record = offer.offered.record();
    let mut bytes = vec![OFFERED];
    bytes.extend(offer.id.as_bytes());
    bytes.extend(space);
    bytes.extend(offer.offered.from.number().to_le_bytes());
    let cause = serde_json::to_vec(&offer.offered.cause).expect("a cause is a word");
    let state = serde_json::to_vec(&record.state).expect("it is JSON");
    let key: Vec<u8> = record.key.iter().flat_map(|value| value.to_le_bytes()).collect();
    let sums: Vec<u8> = record.key_sums.iter().flat_map(|value| value.to_le_bytes()).collect();
    let norms: Vec<u8> = record.token_norms.iter().flat_map(|value| value.to_le_bytes()).collect();
    let goals: Vec<u8> = record.goals.iter().flat_map(|value| value.to_le_bytes()).collect();
    for part in [&cause, &state, &key, &sums, &record.token_keys, &norms, &goals] {
        bytes.extend((part.len() as u32).to_le_bytes());
        bytes.extend(part);
    }
    bytes
}

pub(super) fn settled(id: OfferId) -> Vec<u8> {
    [&[SETTLED], id.as_bytes().as_slice()].concat()
}

/// What a record says; none where it is of another space, or does not fit the memory.
pub(super) fn read(payload: &[u8], memory: &UnifiedMemory) -> Option<Entry> {
    let (kind, rest) = payload.split_first()?;
    let (id, rest) = rest.split_at_checked(16)?;
    let id = OfferId::from_bytes(id.try_into().ok()?);
    if *kind == SETTLED {
        return Some(Entry::Settled(id));
    }
    let (space, rest) = rest.split_at_checked(32)?;
    let (from, mut rest) = rest.split_at_checked(8)?;
    if *kind != OFFERED || space != memory.space().as_bytes() {
        return None;
    }
    let mut part = || {
        let (length, after) = rest.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let (part, after) = after.split_at_checked(length)?;
        rest = after;
        Some(part)
    };
    let cause: Cause = serde_json::from_slice(part()?).ok()?;
    let record = SlotRecord {
        position: 0,
        state: serde_json::from_slice(part()?).ok()?,
        key: floats(part()?),
        key_sums: part()?.as_chunks().0.iter().map(|&eight| f64::from_le_bytes(eight)).collect(),
        token_keys: part()?.to_vec(),
        token_norms: floats(part()?),
        goals: floats(part()?),
    };
    let from: SlotId =
        serde_json::from_value(u64::from_le_bytes(from.try_into().ok()?).into()).ok()?;
    let offered = Offered::from_record(memory, from, cause, &record).ok()?;
    Some(Entry::Offered(PendingOffer { id, offered }))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}
