"""The page of `swd-video studio`: a server beside one folder, whose queue, picks and clips all lie in that folder."""
