"""Everything that knows aiohttp."""
