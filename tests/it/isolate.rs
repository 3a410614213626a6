//! `sideguard run --isolate netns`: any program, unchanged, is governed.
