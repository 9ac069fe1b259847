-- What endpoints were told long ago is forgotten: found by its age, its deliveries by the event.
CREATE INDEX webhook_events_created ON webhook_events (created_at);
CREATE INDEX webhook_deliveries_event ON webhook_deliveries (event);
