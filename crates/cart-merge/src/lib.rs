//! Merging cartridges, as plans.
//!
//! Nothing here touches files: a plan is made from manifests, and carried out over traits that give
//! the bytes of tensors and take those of the result. So a plan can be printed before it is carried
//! out, and repeated to see whether it gives the same.
//!
//! Begin with [`weights`]: [`weights::MergeConfig`], [`weights::Plan`]. What of two agents' memories
//! becomes one is `cart_memory`'s business so far (`UnifiedMemory::join` and what is around it).

pub mod weights;
