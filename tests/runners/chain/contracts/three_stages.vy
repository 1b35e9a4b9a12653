# pragma version ~=0.4.0
"""
@notice A test contract of three stages with leaderboards, whose errors are words and which says not whose a peer id is.
"""

event RewardSubmitted:
    account: indexed(address)
    roundNumber: indexed(uint256)
    stageNumber: indexed(uint256)
    reward: int256
    peerId: String[64]

event WinnerSubmitted:
    account: indexed(address)
    peerId: String[64]
    roundNumber: indexed(uint256)
    winners: DynArray[String[64], 5]

currentRound: public(uint256)
currentStage: public(uint256)
stageCount: public(constant(uint256)) = 3
eoas: HashMap[String[64], address]
paid: HashMap[uint256, HashMap[uint256, HashMap[address, bool]]]
votes: HashMap[uint256, HashMap[String[64], DynArray[String[64], 5]]]
wins: HashMap[String[64], uint256]
named: DynArray[String[64], 100]


@external
@view
def getBootnodes() -> DynArray[String[64], 1]:
    return ["/ip4/127.0.0.1/tcp/1/p2p/QmNobody"]


@external
def registerPeer(peerId: String[64]):
    assert self.eoas[peerId] == empty(address), "PeerIdAlreadyRegistered"
    self.eoas[peerId] = msg.sender


@external
def submitReward(round: uint256, stage: uint256, reward: int256, peerId: String[64]):
    assert round <= self.currentRound, "InvalidRoundNumber"
    assert stage <= stageCount and (round < self.currentRound or stage <= self.currentStage), "InvalidStageNumber"
    assert self.eoas[peerId] == msg.sender, "InvalidVoterPeerId"
    assert not self.paid[round][stage][msg.sender], "RewardAlreadySubmitted"
    self.paid[round][stage][msg.sender] = True
    log RewardSubmitted(account=msg.sender, roundNumber=round, stageNumber=stage, reward=reward, peerId=peerId)


@external
@view
def hasSubmittedRoundStageReward(round: uint256, stage: uint256, account: address) -> bool:
    return self.paid[round][stage][account]


@external
def submitWinners(round: uint256, winners: DynArray[String[64], 5], peerId: String[64]):
    assert round <= self.currentRound, "InvalidRoundNumber"
    assert self.eoas[peerId] == msg.sender, "InvalidVoterPeerId"
    assert len(self.votes[round][peerId]) == 0, "WinnerAlreadyVoted"
    self.votes[round][peerId] = winners
    for winner: String[64] in winners:
        if self.wins[winner] == 0:
            self.named.append(winner)
        self.wins[winner] += 1
    log WinnerSubmitted(account=msg.sender, peerId=peerId, roundNumber=round, winners=winners)


@external
@view
def winnerLeaderboard(first: uint256, last: uint256) -> (DynArray[String[64], 100], DynArray[uint256, 100]):
    counts: DynArray[uint256, 100] = []
    for name: String[64] in self.named:
        counts.append(self.wins[name])
    return self.named, counts


@external
def updateStageAndRound() -> (uint256, uint256):
    self.currentStage = (self.currentStage + 1) % stageCount
    if self.currentStage == 0:
        self.currentRound += 1
    return self.currentRound, self.currentStage
