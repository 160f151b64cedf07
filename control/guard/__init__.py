"""A guard beside a Redis: how it may be started, who may lead, who must not be promoted."""
