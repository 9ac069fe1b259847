-- What endpoints were told long ago is forgotten: found by its age, its deliveries by the event.
CREATE INDEX IF NOT EXISTS webhook_events_created ON webhook_events (created_at);
CREATE INDEX IF NOT EXISTS webhook_deliveries_event ON webhook_deliveries (event);
